"""Predictions for a user's own files: one that cannot be used does not stop the others."""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from experiments.engine.errors import InputError
from experiments.engine.text import printable


def predict_each[Result](
    files: Iterable[Path], predict: Callable[[Path], Result]
) -> Iterator[tuple[Path, Result | InputError]]:
    """Predicts for files, one after the other.

    Args:
        files: the files.
        predict: from a file to its result; raises :class:`InputError` if there can be none.

    Yields:
        Each file, as it is done, with its result or the error.
    """
    for file in files:
        try:
            outcome: Result | InputError = predict(file)
        except InputError as error:
            outcome = error
        yield file, outcome


def report[Result](
    outcomes: Iterable[tuple[Path, Result | InputError]], show: Callable[[Path, Result], None]
) -> None:
    """Shows each result, and prints each error, as they come.

    Args:
        outcomes: those of :func:`predict_each`.
        show: prints the result of a file.

    Raises:
        SystemExit: with code 2, after the last outcome, if any was an error.
    """
    failed = False
    for file, outcome in outcomes:
        if isinstance(outcome, InputError):
            print(f"error: {printable(outcome)}", file=sys.stderr)
            failed = True
        else:
            show(file, outcome)
    if failed:
        sys.exit(2)
