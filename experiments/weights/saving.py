"""Writes the variables of a model to files of weights."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.engine.config import check
from experiments.weights.layout import Layout
from experiments.weights.loading import arrays_for_file
from experiments.weights.writing import SUFFIXES, write_files


def check_new(paths: Sequence[Path]) -> None:
    """Checks paths of files of weights that will be written, before any work.

    Args:
        paths: paths of the files.

    Raises:
        ConfigError: a file exists or has an unknown suffix, or two paths are equal.
    """
    suffixes = f"a file with the suffix {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
    for path in paths:
        check(not path.exists(), "output", "a new file", str(path))
        check(path.suffix in SUFFIXES, "output", suffixes, str(path))
    check(
        # Not `Path.resolve`, which raises an error of its own for links in a loop.
        len({os.path.realpath(path) for path in paths}) == len(paths),
        "output",
        "different files",
        [*map(str, paths)],
    )


def save(
    paths: Sequence[Path],
    variables: Any,
    layout: Layout,
    rest: Mapping[str, np.ndarray],
    file_of: Callable[[str], int] | None = None,
) -> None:
    """Writes variables to new files, in a format of another library.

    Either all files are written, or none.

    Args:
        paths: paths of the files.
        variables: variables of the model.
        layout: names and arrangements in the files.
        rest: arrays of the files that the variables came from; see
            :func:`experiments.weights.loading.arrays_for_file`.
        file_of: function from the name of an array to the index of its file; ``None`` for one file.

    Raises:
        ConfigError: see :func:`check_new`.
        WeightsError: an array has a dtype that the format of its file lacks, or a file cannot be
            written.
    """
    check_new(paths)
    arrays = arrays_for_file(variables, layout, rest)
    files: dict[Path, dict[str, np.ndarray]] = {path: {} for path in paths}
    for name, array in arrays.items():
        files[paths[file_of(name) if file_of else 0]][name] = array
    write_files(files)
