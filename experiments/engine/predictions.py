"""Predictions for files of a user; a file that cannot be used does not stop the others."""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from experiments.engine.errors import InputError
from experiments.engine.text import printable


def predict_each[Result](
    files: Iterable[Path], predict: Callable[[Path], Result]
) -> Iterator[tuple[Path, Result | InputError]]:
    """Predicts for files, one after another.

    Args:
        files: paths of the files.
        predict: function from a file to its result; raises :class:`InputError` if there is none.

    Yields:
        Each file with its result or its error, as soon as it is done.
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
    """Shows each result, and prints each error, as soon as it is available.

    Args:
        outcomes: outcomes from :func:`predict_each`.
        show: function that shows the result of a file.

    Raises:
        SystemExit: after the last outcome, with code 2, if there was an error.
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
