"""Data parallelism: the only place that knows how a step is spread over devices.

Steps run through ``pmap`` on all devices, also when there is one. State goes in and comes out
unreplicated; a process splits its batches along their leading axis over its local devices.
"""

from collections.abc import Callable
from typing import Any

import jax

from experiments.engine.config import ConfigError

AXIS = "devices"


def data_parallel(step: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Maps ``step(state, batch)`` over the devices.

    Args:
        step: sees one device's share of the batch; its results must be the same on all devices,
            so it reduces them over the mapped axis :data:`AXIS`.

    Returns:
        A function of the unreplicated state and this process's batch, a pytree of arrays with one
        leading batch axis, that returns unreplicated results.
    """
    mapped = jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None)

    def run(state: Any, batch: Any) -> Any:
        return mapped(state, split(batch))

    return run


def split(batch: Any) -> Any:
    """Splits the leading axis of every array: ``[b, ...] -> [devices, b / devices, ...]``.

    Raises:
        ConfigError: the batch size is not a multiple of the number of local devices.
    """
    devices = jax.local_device_count()

    def split_array(array: Any) -> Any:
        if array.shape[0] % devices:
            low = array.shape[0] // devices * devices
            nearest = [size for size in (low, low + devices) if size]
            raise ConfigError(
                f"the batch size must be a multiple of the {devices} local devices, got "
                f"{array.shape[0]}; the nearest that fit are {nearest}"
            )
        return array.reshape(devices, array.shape[0] // devices, *array.shape[1:])

    return jax.tree.map(split_array, batch)
