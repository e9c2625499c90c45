"""The input of a training or an evaluation: batches that are prefetched to the devices."""

import contextlib
import multiprocessing
import multiprocessing.resource_tracker
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Self

import absl.flags
import grain
import numpy as np

from experiments.engine.batch_fields import RECORD, UNREADABLE
from experiments.engine.errors import UserError
from experiments.engine.parallel import split

_BATCHES_AHEAD = 2

# A terminal and Slurm send these signals to the workers too; the parent saves a checkpoint first.
_SENT_TO_ALL_PROCESSES = (signal.SIGINT, signal.SIGTERM)

# How grain reports the end of a worker, and the usual causes of some signals that end workers.
_WORKER_ENDED = re.compile(r"Worker process was terminated unexpectedly with exit code (-?\d+)")
_CAUSES = {
    signal.SIGBUS: "the shared memory of /dev/shm is probably too small for the batches: enlarge "
    "it, in a container by `--shm-size`, or use 0 workers",
    signal.SIGKILL: "memory is probably too small: use fewer workers",
}


class WorkerError(UserError, RuntimeError):
    """A process that prepares batches ended too early."""


class Input:
    """An iterator of batches on the devices.

    Args:
        dataset: batches of this process, finite or endless: dicts of arrays with one leading batch
            axis. The fields ``record`` and ``unreadable`` of :mod:`experiments.engine.batch_fields`
            stay on the host. On the devices ``unreadable`` is the number of unreadable records of
            each example, int32 ``[b]``.
        workers: number of processes that prepare batches; 0 prepares them in threads. The batches
            do not depend on this number.
    """

    def __init__(self, dataset: grain.MapDataset, workers: int) -> None:
        batches = dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
        if workers:
            if not absl.flags.FLAGS.is_parsed():  # grain reads flags, which absl programs parse
                absl.flags.FLAGS.mark_as_parsed()
            batches = batches.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=_follow_parent
            )
        batches = grain.experimental.ThreadPrefetchIterDataset(
            batches.map(_to_devices), prefetch_buffer_size=_BATCHES_AHEAD
        )
        self.iterator: grain.DatasetIterator = iter(batches)
        self.seconds_waited = 0.0
        self._starts_workers = workers > 0

    def __iter__(self) -> Self:
        """Returns this iterator."""
        return self

    def __next__(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Returns the next batch on the devices, and the fields that stay on the host.

        Raises:
            WorkerError: a signal ended a worker, for example because memory ran out.
        """
        began = time.perf_counter()
        if self._starts_workers:
            with _signals_to_all_processes_blocked():
                self.iterator.start_prefetch()  # once; the iterator may have been moved before
            self._starts_workers = False
        try:
            batch = next(self.iterator)
        except RuntimeError as error:
            if (ended := _WORKER_ENDED.search(str(error))) and int(ended[1]) < 0:
                raise _ended_by(signal.Signals(-int(ended[1]))) from error
            raise
        self.seconds_waited += time.perf_counter() - began
        return batch

    def close(self) -> None:
        """Ends the threads and processes."""
        self.iterator.close()


def _ended_by(number: signal.Signals) -> WorkerError:
    cause = f": {_CAUSES[number]}" if number in _CAUSES else ""
    return WorkerError(f"{number.name} ended a process that prepares batches{cause}")


def unreadable_records(host: Mapping[str, np.ndarray]) -> list[int]:
    """Returns the numbers of the records that could not be read for a batch.

    Args:
        host: fields of the batch that stay on the host.
    """
    numbers = host[UNREADABLE]
    return numbers[numbers >= 0].tolist()


@contextlib.contextmanager
def _signals_to_all_processes_blocked() -> Iterator[None]:
    """Blocks the signals that workers ignore, until they do so: new processes inherit the mask."""
    # The start of multiprocessing's resource tracker would end the block.
    multiprocessing.resource_tracker.ensure_running()
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SENT_TO_ALL_PROCESSES)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _follow_parent(worker: int, workers: int) -> None:
    """Runs in a worker, and makes it end when its parent closes it or has ended."""
    del worker, workers
    for number in _SENT_TO_ALL_PROCESSES:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SENT_TO_ALL_PROCESSES)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()  # a worker without parent would wait for ever
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _to_devices(batch: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    host = {name: batch[name] for name in (RECORD, UNREADABLE)}
    sent = {name: array for name, array in batch.items() if name not in host}
    sent[UNREADABLE] = (host[UNREADABLE] >= 0).sum(axis=-1, dtype=np.int32)
    return split(sent), host
