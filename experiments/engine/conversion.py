"""The two directions of the command `convert`: weights to a run, and a run to weights."""

from pathlib import Path
from typing import Any

import tyro

from experiments.engine.config import check

# The name of the option `--from`, which is a keyword of Python.
FROM: Any = tyro.conf.arg(name="from")


def reads_weights(
    has_weights: bool, library: str | None, target: str | None, run: Path | None
) -> bool:
    """Whether `convert` makes a run from weights; otherwise it writes the weights of a run.

    Args:
        has_weights: whether there are files of weights, option `--weights`.
        library: format of these files, option `--from`; ``None`` if it was not given.
        target: format of the file that is written, option `--to`.
        run: folder of the run whose weights are written, option `--run`.

    Raises:
        ConfigError: the options name both directions, or none, or one of them incompletely.
    """
    reading = {"--weights": has_weights, "--from": library is not None}
    writing = {"--to": target is not None, "--run": run is not None}
    given = [name for name, is_given in {**reading, **writing}.items() if is_given]
    for wanted, needed in ((reading, {"--weights"}), (writing, {"--to", "--run"})):
        if needed <= {*given} <= {*wanted}:
            return wanted is reading
    expected = "`--weights FILE` to make a run, or `--to FORMAT --run RUN` to write its weights"
    check(False, "the options of convert", expected, given)
    raise AssertionError
