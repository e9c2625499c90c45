"""Configs are nested frozen dataclasses; a run keeps its own as JSON."""

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

from experiments.engine.files import write_json


class ConfigError(ValueError):
    """A config on disk does not fit the code or the command that reads it."""


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Names each field in which two configs of one class differ: ``training.seed: 0 -> 1``."""
    found = []
    for field in dataclasses.fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        name = prefix + field.name
        if dataclasses.is_dataclass(before):
            found += differences(before, after, f"{name}.")
        elif before != after:
            found.append(f"{name}: {before!r} -> {after!r}")
    return found


def save(config: Any, path: Path) -> None:
    """Writes a config as JSON, atomically."""
    write_json(path, dataclasses.asdict(config))


def load[Config](cls: type[Config], path: Path) -> Config:
    """Reads a config that :func:`save` wrote.

    Raises:
        ConfigError: the file is no JSON, or lacks a field, or has one that ``cls`` does not know.
        OSError: the file cannot be read.
    """
    try:
        return _from_dict(cls, json.loads(path.read_text()), "")
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _from_dict(cls: Any, values: Any, prefix: str) -> Any:
    hints = typing.get_type_hints(cls)
    if not isinstance(values, dict) or values.keys() != hints.keys():
        raise ConfigError(
            f"expected the fields {sorted(hints)} of {prefix or 'the config'}, got "
            f"{sorted(values) if isinstance(values, dict) else values!r}"
        )
    arguments = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            value = _from_dict(hints[name], value, f"{prefix}{name}.")
        elif isinstance(value, list):
            value = tuple(value)
        arguments[name] = value
    return cls(**arguments)
