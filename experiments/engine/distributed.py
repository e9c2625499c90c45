"""Several processes that train together: how they start, agree, and stop on SIGTERM."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.engine.config import ConfigError
from experiments.engine.distributed_config import Distributed


def start(config: Distributed) -> None:
    """Joins the processes named by ``config``; before anything else touches a device.

    Raises:
        ConfigError: with ``auto``, there is no cluster.
        RuntimeError: the others were not found in time.
    """
    if config.cpu_devices is not None:
        jax.config.update("jax_num_cpu_devices", config.cpu_devices)
    local = config.local_devices or None
    if config.auto:
        try:
            jax.distributed.initialize(local_device_ids=local)
        except ValueError as error:
            raise ConfigError(
                f"auto must be given within a cluster that JAX knows, got {error}"
            ) from error
    elif config.coordinator is not None:
        jax.distributed.initialize(config.coordinator, config.processes, config.process, local)


def is_primary() -> bool:
    """Whether this process writes the files of the run and prints to the terminal."""
    return jax.process_index() == 0


def all_agree(holds: bool) -> bool:
    """Whether ``holds`` on every process; each must call it."""
    if jax.process_count() == 1:
        return holds
    return bool(np.all(multihost_utils.process_allgather(np.array(holds))))


def gather_bytes(payload: bytes) -> list[bytes]:
    """The payloads of all processes, by the number of the process; each must call it.

    Args:
        payload: of this process; lengths may differ, and be 0.
    """
    if jax.process_count() == 1:
        return [payload]
    lengths = multihost_utils.process_allgather(np.array(len(payload), np.int32))
    padded = np.zeros(max(lengths.max(), 1), np.uint8)  # arrays without elements are not sent
    padded[: len(payload)] = np.frombuffer(payload, np.uint8)
    rows = multihost_utils.process_allgather(padded)  # [processes, longest]
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def primary_first[Result](make: Callable[[], Result]) -> Result:
    """The result of ``make``, called by the first process before the others.

    For a data set that only one process may build, and that all of them then open.
    """
    if is_primary():
        try:
            result = make()
        finally:
            barrier("primary first")
        return result
    barrier("primary first")
    return make()


def abort(code: int) -> None:
    """Ends this process at once, if there are others; those notice it, and end too.

    An ordinary exit would wait for minutes: JAX waits for the others, and they for this process.
    """
    if jax.distributed.is_initialized():  # to count the processes would start the devices
        with contextlib.suppress(OSError):  # nobody may read them any more
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


class Interruption:
    """Notes SIGTERM while it is entered, on behalf of all processes."""

    def __init__(self) -> None:
        self._noted = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        # With several processes JAX' own handler must stay: it passes the signal on to the others.
        if jax.process_count() == 1:
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._previous)

    def requested(self, step: int) -> bool:
        """Whether to stop after ``step``: the same answer on every process for the same step."""
        if jax.process_count() == 1:
            return self._noted
        return bool(multihost_utils.reached_preemption_sync_point(step))

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._noted = True
