"""Writes the variables of a model to files of weights."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.engine.config import check
from experiments.weights.layout import Layout
from experiments.weights.loading import arrays_for_file


def check_new(paths: Sequence[Path]) -> None:
    """Raises ``ConfigError`` unless all paths are new and differ.

    Args:
        paths: paths of files that will be written.
    """
    for path in paths:
        check(not path.exists(), "output", "a new file", str(path))
    check(len({*paths}) == len(paths), "output", "different files", [*map(str, paths)])


def save(
    paths: Sequence[Path],
    variables: Any,
    layout: Layout,
    rest: Mapping[str, np.ndarray],
    file_of: Callable[[str], int] | None = None,
) -> None:
    """Writes variables to new files, in a format of another library.

    Args:
        paths: paths of the files.
        variables: variables of the model.
        layout: names and arrangements in the files.
        rest: arrays of the files that the variables came from; see
            :func:`experiments.weights.loading.arrays_for_file`.
        file_of: function from the name of an array to the index of its file; ``None`` for one file.

    Raises:
        ConfigError: a file exists.
    """
    check_new(paths)
    from experiments.weights.writing import write_weights

    arrays = arrays_for_file(variables, layout, rest)
    for index, path in enumerate(paths):
        names = [name for name in arrays if file_of is None or file_of(name) == index]
        write_weights(path, {name: arrays[name] for name in names})
