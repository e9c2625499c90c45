"""Data parallelism: the only module that spreads a step over devices.

Steps run through ``pmap`` on all devices of all processes, also when there is one. State goes in
and comes out unreplicated; a process splits its share of a batch over its local devices.
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
        step: sees one device's share of the batch; its results must be the same on all devices,
            so it reduces them over the mapped axis :data:`AXIS`.
        donate_state: reuses the memory of the old state for the new one.
        per_example: the results are of the examples in a device's share, and have a batch axis;
            they may differ between devices.

    Returns:
        A function of the unreplicated state and a batch from :func:`split`. It returns unreplicated
        results; with ``per_example`` they are spread over the devices as the batch is, and
        :func:`join` puts them together.
    """
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=0 if per_example else None,
        donate_argnums=(0,) if donate_state else (),
    )


def split(batch: Any) -> Any:
    """Spreads this process's share of a batch: ``[b, ...] -> [devices, b / devices, ...]``.

    Args:
        batch: a pytree of arrays with one leading batch axis.

    Returns:
        The same, each array's first axis laid over the local devices.

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
    """Copies results from this process's devices to the host; undoes :func:`split`.

    Args:
        results: a pytree of arrays ``[devices, b / devices, ...]``.

    Returns:
        The same, of numpy arrays ``[b, ...]``.
    """

    def join_array(array: Any) -> Any:
        return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])

    return jax.tree.map(join_array, jax.device_get(results))


def replicate(state: Any) -> Any:
    """Copies a state to the local devices, placed as mapped steps return theirs."""
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))
    return jax.device_put(state, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def share_of_process(batch_size: int) -> int:
    """The examples of a global batch that this process prepares.

    Args:
        batch_size: examples over all processes.

    Raises:
        ConfigError: the processes cannot share them equally.
    """
    processes = jax.process_count()
    _check_multiple("batch_size", batch_size, processes, f"the {processes} processes")
    return batch_size // processes


def check_batch_size(batch_size: int, accumulation: int = 1) -> None:
    """Checks that a global batch can be shared equally.

    Args:
        batch_size: examples of a step, over all processes and devices.
        accumulation: parts in which a device works through its share.

    Raises:
        ConfigError: it cannot; the message names the nearest batch sizes that fit.
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
            f"{name} must be a multiple of {unit} ({what}), got {size}; the nearest that fit are "
            f"{nearest}"
        )
