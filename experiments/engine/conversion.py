"""Directions of the command `convert`: from weights to a run, or from a run to weights."""

from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.engine.config import check

# The option `--from`, whose name is a keyword of Python.
FROM: Any = tyro.conf.arg(name="from")

WEIGHTS = Annotated[
    tuple[Path, ...],
    tyro.conf.arg(metavar="FILE [FILE ...]"),
]


def reads_weights(
    weights: tuple[Path, ...], source: str | None, to: str | None, run: Path | None
) -> bool:
    """Whether `convert` makes a run from weights; otherwise it writes the weights of a run.

    Args:
        weights: files of weights, option `--weights`.
        source: format of these files, option `--from`; ``None`` to recognise it.
        to: format to write, option `--to`.
        run: folder of the run that is written, option `--run`.

    Raises:
        ConfigError: the options do not give exactly one direction.
    """
    reading = {"--weights": bool(weights), "--from": source is not None}
    writing = {"--to": to is not None, "--run": run is not None}
    given = [name for name, is_given in {**reading, **writing}.items() if is_given]
    both = any(reading.values()) and any(writing.values())
    expected = "`--weights FILE` to make a run, or `--to FORMAT --run RUN` to write one"
    check(bool(given) and not both, "options of convert", expected, given)
    if any(reading.values()):
        check(reading["--weights"], "weights", "one or more files with --from", [])
    else:
        check(writing["--to"], "to", "the format of the file with --run", None)
        check(writing["--run"], "run", "the folder of a run with --to", None)
    return any(reading.values())
