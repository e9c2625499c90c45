"""The input of a training or an evaluation: batches, read ahead and copied to the devices."""

import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any, Self

import absl.flags
import grain
import numpy as np

from experiments.engine.batch_fields import RECORD, UNREADABLE
from experiments.engine.errors import UserError
from experiments.engine.parallel import split

_BATCHES_AHEAD = 2

# How grain reports the end of a worker, and what the signals that end one often mean.
_WORKER_ENDED = re.compile(r"Worker process was terminated unexpectedly with exit code (-?\d+)")
_CAUSES = {
    signal.SIGBUS: "the shared memory of /dev/shm is probably too small for the batches: enlarge "
    "it, in a container by `--shm-size`, or take 0 workers",
    signal.SIGKILL: "memory is probably too small: take fewer workers",
}


class WorkerError(UserError, RuntimeError):
    """A process that prepares batches has ended too early."""


class Input:
    """An endless iterator of batches that lie on the devices.

    Args:
        dataset: endless, of this process's batches: dicts of arrays with one leading batch axis.
            ``record`` and ``unreadable``, see :mod:`experiments.engine.batch_fields`, stay on the
            host. On the devices ``unreadable`` is the number of these records, int32 ``[b]``.
        workers: processes that prepare batches; 0 for threads of this one. The batches are the
            same.
    """

    def __init__(self, dataset: grain.MapDataset, workers: int) -> None:
        batches = dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
        if workers:
            if not absl.flags.FLAGS.is_parsed():  # grain reads flags, and this is no absl program
                absl.flags.FLAGS.mark_as_parsed()
            batches = batches.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=_follow_parent
            )
        batches = grain.experimental.ThreadPrefetchIterDataset(
            batches.map(_to_devices), prefetch_buffer_size=_BATCHES_AHEAD
        )
        self.iterator: grain.DatasetIterator = iter(batches)
        self.seconds_waited = 0.0

    def __iter__(self) -> Self:
        """Itself."""
        return self

    def __next__(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The next batch on the devices, and its fields that stay on the host.

        Raises:
            WorkerError: a worker was ended by a signal, such as for want of memory.
        """
        began = time.perf_counter()
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
    return WorkerError(f"{number.name} has ended a worker of the input{cause}")


def unreadable_records(host: Mapping[str, np.ndarray]) -> list[int]:
    """Numbers of the records that could not be read for a batch.

    Args:
        host: the fields of the batch that stay on the host.
    """
    numbers = host[UNREADABLE]
    return numbers[numbers >= 0].tolist()


def _follow_parent(worker: int, workers: int) -> None:
    """Runs in a worker, which ends when its parent ends it, or has ended."""
    del worker, workers
    # A terminal and Slurm send these to all processes. The parent saves a checkpoint first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()  # without it, the worker would wait for ever for someone to take a batch
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _to_devices(batch: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    host = {name: batch[name] for name in (RECORD, UNREADABLE)}
    sent = {name: array for name, array in batch.items() if name not in host}
    sent[UNREADABLE] = (host[UNREADABLE] >= 0).sum(axis=-1, dtype=np.int32)
    return split(sent), host
