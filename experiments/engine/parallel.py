"""Data parallelism: the only module that distributes a step over devices.

Steps run through ``pmap`` on all devices of all processes, even if there is only one. The state is
not replicated before or after a step; each process splits its share of a batch over its local
devices.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.engine.config import ConfigError, check

AXIS = "devices"


def data_parallel(
    step: Callable[..., Any], donate_state: bool = False, per_example: bool = False
) -> Callable[..., Any]:
    """Maps ``step(state, batch)`` over the devices.

    Args:
        step: function of a state and the share of a batch of one device. Its results must be the
            same on all devices, so it reduces them over the mapped axis :data:`AXIS`.
        donate_state: whether to reuse the memory of the old state for the new one.
        per_example: whether the results have a batch axis, with one entry for each example of the
            share of a device; they may differ between devices.

    Returns:
        A function of the unreplicated state and of a batch from :func:`split`, which returns
        unreplicated results. With ``per_example`` its results are distributed over the devices like
        the batch; :func:`join` puts them together.
    """
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=0 if per_example else None,
        donate_argnums=(0,) if donate_state else (),
    )


def split(batch: Any) -> Any:
    """Distributes the batch of this process: ``[b, ...] -> [devices, b / devices, ...]``.

    Args:
        batch: a pytree of arrays with one leading batch axis.

    Returns:
        The same pytree, with the first axis of each array distributed over the local devices.

    Raises:
        ConfigError: the batch size is not a multiple of the number of local devices.
    """
    devices = jax.local_devices()
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))

    def split_array(array: Any) -> Any:
        _check_multiple("the batch size", array.shape[0], len(devices), "the local devices")
        return array.reshape(len(devices), array.shape[0] // len(devices), *array.shape[1:])

    return jax.device_put(jax.tree.map(split_array, batch), sharding)


def join(results: Any) -> Any:
    """Copies results from the devices of this process to the host; the inverse of :func:`split`.

    Args:
        results: a pytree of arrays ``[devices, b / devices, ...]``.

    Returns:
        The same pytree, with numpy arrays ``[b, ...]``.
    """

    def join_array(array: Any) -> Any:
        return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])

    return jax.tree.map(join_array, jax.device_get(results))


def replicate(state: Any) -> Any:
    """Copies a state to the local devices, with the placement of the results of mapped steps."""
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))
    return jax.device_put(state, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def share_of_process(batch_size: int) -> int:
    """Returns the number of examples of a global batch that this process prepares.

    Args:
        batch_size: number of examples, over all processes.

    Raises:
        ConfigError: the processes cannot share the batch equally.
    """
    processes = jax.process_count()
    _check_multiple("batch_size", batch_size, processes, f"the {processes} processes")
    return batch_size // processes


def check_batch_size(batch_size: int, accumulation: int = 1) -> None:
    """Checks that the devices can share a global batch equally.

    Args:
        batch_size: number of examples in a step, over all processes and devices.
        accumulation: number of equal parts into which each device divides its share.

    Raises:
        ConfigError: the devices cannot share it; the message names the nearest valid batch sizes.
    """
    devices = jax.device_count()
    what = f"the {devices} devices" + (f" x accumulation {accumulation}" * (accumulation > 1))
    _check_multiple("batch_size", batch_size, devices * accumulation, what)


def _check_multiple(name: str, size: int, unit: int, what: str) -> None:
    check(size >= 1, name, "at least 1", size)
    if size % unit:
        low = size // unit * unit
        nearest = [fitting for fitting in (low, low + unit) if fitting]
        raise ConfigError(
            f"{name} must be a multiple of {unit} ({what}), got {size}; the nearest multiples are "
            f"{nearest}"
        )
