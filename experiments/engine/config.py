"""Configs are nested frozen dataclasses, and are saved as JSON in the folder of a run."""

import dataclasses
import types
import typing
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from experiments.engine.errors import UserError
from experiments.engine.json_files import is_finite, is_int64, read_json, write_json
from experiments.engine.text import shown


class ConfigError(UserError):
    """A config, or an argument of a command, is invalid."""


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Lists the fields in which two configs of one class differ: ``training.seed: 0 -> 1``."""
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
        ConfigError: the file is not valid JSON, or has a missing, unknown or invalid field.
        OSError: the file cannot be read.
    """
    try:
        values = read_json(path)
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    try:
        return _from_dict(cls, values, "")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _from_dict(cls: Any, values: Any, prefix: str) -> Any:
    hints = typing.get_type_hints(cls)
    if not isinstance(values, dict) or values.keys() != hints.keys():
        raise ConfigError(
            f"{prefix.rstrip('.') or 'the config'} {_field_mismatch(hints.keys(), values)}"
        )
    return cls(**{name: _typed(hints[name], values[name], prefix + name) for name in hints})


def _field_mismatch(fields: AbstractSet[str], values: Any) -> str:
    """Explains why ``values`` do not match the names of ``fields``."""
    if not isinstance(values, dict):
        return f"must have the fields {sorted(fields)}, got {shown(values)}"
    missing, unknown = sorted(fields - values.keys()), sorted(values.keys() - fields)
    problems = [f"lacks {missing}"] * bool(missing)
    problems += [f"has unknown {shown(unknown)}"] * bool(unknown)
    return " and ".join(problems)


def _typed(hint: Any, value: Any, name: str) -> Any:
    """Checks a value against its annotation: a dataclass, Literal, tuple, scalar or None."""
    if dataclasses.is_dataclass(hint):
        return _from_dict(hint, value, f"{name}.")
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is types.UnionType and value is None and type(None) in arguments:
        return None
    if origin is types.UnionType:
        (something,) = (argument for argument in arguments if argument is not type(None))
        return _typed(something, value, name)
    if origin is typing.Literal:
        fits = any(type(value) is type(each) and value == each for each in arguments)
    elif origin is tuple:
        fits = isinstance(value, list)
        if fits:
            return tuple(_typed(arguments[0], item, name) for item in value)
    elif hint is float:
        fits = is_finite(value)
    elif hint is int:
        fits = is_int64(value)
    else:
        fits = type(value) is hint
    if not fits:
        if origin is typing.Literal:
            expected = f"one of {list(arguments)}"
        else:
            expected = {int: "int of 64 bits", float: "finite float"}.get(hint, str(hint))
        raise ConfigError(f"{name} must be {expected}, got {shown(value)}")
    return value


def check_at_least(config: Any, **lowest: float) -> None:
    """Raises :class:`ConfigError` for each named field of ``config`` below its lower bound."""
    for name, bound in lowest.items():
        value = getattr(config, name)
        check(value >= bound, name, f"at least {bound}", value)


def check(holds: bool, name: str, expected: str, got: object) -> None:
    """Raises :class:`ConfigError` unless ``holds``; used to validate the fields of configs."""
    if not holds:
        raise ConfigError(f"{name} must be {expected}, got {got!r}")
