"""Training with several processes: how they connect and agree."""

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.engine.config import ConfigError
from experiments.engine.distributed_config import Distributed


def start(config: Distributed) -> None:
    """Connects to the processes named by ``config``; call it before any device is used.

    Raises:
        ConfigError: ``auto`` is set, but there is no cluster that JAX knows.
        RuntimeError: the other processes did not connect in time.
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


def connected() -> bool:
    """Whether this process is one of several; counting them would start the devices."""
    return jax.distributed.is_initialized()


def is_primary() -> bool:
    """Whether this process writes the files of the run and prints to the terminal."""
    return jax.process_index() == 0


def all_agree(holds: bool) -> bool:
    """Whether ``holds`` is true on every process; every process must call this."""
    if jax.process_count() == 1:
        return holds
    return bool(np.all(multihost_utils.process_allgather(np.array(holds))))


def gather_bytes(payload: bytes) -> list[bytes]:
    """Gathers bytes from all processes, ordered by process number; every process must call this.

    Args:
        payload: bytes of this process; the length may differ between processes, and may be 0.
    """
    if jax.process_count() == 1:
        return [payload]
    lengths = multihost_utils.process_allgather(np.array(len(payload), np.int32))
    padded = np.zeros(max(lengths.max(), 1), np.uint8)  # empty arrays are not sent
    padded[: len(payload)] = np.frombuffer(payload, np.uint8)
    rows = multihost_utils.process_allgather(padded)  # [processes, longest]
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


def barrier(name: str) -> None:
    """Waits until every process has reached this call."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def primary_first[Result](make: Callable[[], Result]) -> Result:
    """Returns the result of ``make``, which process 0 calls before the others do.

    Use it for a dataset that only one process may build and that all processes then open.
    """
    if is_primary():
        try:
            result = make()
        finally:
            barrier("primary first")
        return result
    barrier("primary first")
    return make()
