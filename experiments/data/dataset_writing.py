"""Writes tfds datasets of any size, without TensorFlow."""

import itertools
import operator
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from rich.console import Console
from rich.progress import track

RECORDS_PER_FILE = 1024

# The greatest number of records in memory.
_RECORDS_AT_ONCE = 64

type MakeRecord = Callable[[], Mapping[str, Any]]


def write_dataset(
    prepared: Path, module: str, splits: Mapping[str, Iterable[MakeRecord]], **info: Any
) -> None:
    """Writes a dataset; its records keep the given order. A terminal shows the progress.

    Call it from the function given to :func:`experiments.data.prepared.prepare_once`, which holds a
    lock and deletes the files of a killed preparation.

    Args:
        prepared: folder of the complete dataset, ``data_dir/<name>/<config>/<version>``; the
            dataset gets this name, config and version.
        module: name of the module that defines the dataset.
        splits: for each split, the functions that make its records, one function for each record,
            in the order of the records. They are called in threads.
        info: ``features``, ``metadata`` and other arguments of ``tfds.core.DatasetInfo``.

    Raises:
        Exception: one of the functions raised it; nothing of the dataset is left on disk.
    """
    incomplete = prepared.with_name(f"incomplete.{prepared.name}")
    # A builder of tfds would sort the records. Above 1 GB it sorts through files, for which it
    # needs TensorFlow.
    identity = tfds.core.DatasetIdentity(
        name=prepared.parent.parent.name,
        config_name=prepared.parent.name,
        version=tfds.core.Version(prepared.name),
        data_dir=incomplete,
        module_name=module,
    )
    described = tfds.core.DatasetInfo(builder=identity, **info)
    console = Console(stderr=True)
    incomplete.mkdir()
    try:
        writer = tfds.core.SequentialWriter(described, RECORDS_PER_FILE, file_format="array_record")
        writer.initialize_splits(list(splits))
        for split, functions in splits.items():
            batches = list(itertools.batched(functions, _RECORDS_AT_ONCE))
            for some in track(
                batches, f"writing {split}", console=console, disable=not console.is_terminal
            ):
                writer.add_examples({split: list(in_threads(operator.call, some))})
        writer.close_all()
        incomplete.rename(prepared)
    except BaseException:
        shutil.rmtree(incomplete, ignore_errors=True)
        raise


def in_threads[A, B](function: Callable[[A], B], arguments: Iterable[A]) -> Iterator[B]:
    """Calls a function for each argument, in threads, and yields the results in order.

    Args:
        function: function that spends most of its time in files, Pillow or NumPy, which release the
            lock of the interpreter.
        arguments: arguments of the function, one for each call.
    """
    with ThreadPoolExecutor() as pool:
        yield from pool.map(function, arguments)
