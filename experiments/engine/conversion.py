"""The two directions of the command `convert`: weights to a run, and a run to weights."""

import dataclasses
from pathlib import Path
from typing import Any

import tyro

from experiments.engine.config import ConfigError, check

# The name of the option `--from`, which is a keyword of Python.
FROM: Any = tyro.conf.arg(name="from")


@dataclasses.dataclass(frozen=True)
class Export[Library]:
    """A run whose weights `convert` writes.

    Attributes:
        run: folder of the run.
        library: library for which the weights are written.
    """

    run: Path
    library: Library


def requested_export[Library](
    has_weights: bool, library: str | None, to: Library | None, run: Path | None
) -> Export[Library] | None:
    """The run whose weights `convert` writes; ``None`` if it makes a run from weights.

    Args:
        has_weights: whether there are files of weights, option `--weights`.
        library: library of these files, option `--from`; ``None`` if it was not given.
        to: library of the file that is written, option `--to`; ``None`` if it was not given.
        run: folder of the run whose weights are written, option `--run`; ``None`` if it was not
            given.

    Raises:
        ConfigError: the options name both directions, or none, or one of them incompletely.
    """
    if to is not None and run is not None and not has_weights and library is None:
        return Export(run, to)
    if has_weights and to is None and run is None:
        return None
    options = {
        "--weights": has_weights,
        "--from": library is not None,
        "--to": to is not None,
        "--run": run is not None,
    }
    raise ConfigError(
        "the options of convert must be `--weights FILE` to make a run, or `--to LIBRARY --run "
        f"RUN` to write its weights, got {[name for name, is_given in options.items() if is_given]}"
    )


def given[Value](name: str, value: Value | None, expected: str) -> Value:
    """The value of an option that the direction requires.

    Args:
        name: name of the option.
        value: value of the option; ``None`` if it was not given.
        expected: description of the value, for the message.

    Raises:
        ConfigError: the option was not given.
    """
    if value is None:
        raise ConfigError(f"{name} must be {expected}, got None")
    return value


def check_left_out(direction: str, **options: Any) -> None:
    """Checks that no option was given that a direction would ignore.

    Args:
        direction: option that names the direction, `--weights` or `--to`.
        **options: values of the options of the other direction; ``None``, or an empty tuple, if an
            option was not given.

    Raises:
        ConfigError: one of ``options`` was given.
    """
    for name, value in options.items():
        check(value is None or value == (), name, f"left out with {direction}", value)
