"""The geometry of a reassembly, and sums over the images of its kernels."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from carafe_kernels.geometry import Geometry

from carafe_jax.sources import Reassembly


def geometry_of(step: Reassembly) -> Geometry:
    """Returns the geometry of a reassembly.

    Raises:
        ValueError: the reassembly has a scale of its own, at which outputs have no fixed phases.
    """
    if step.scale is not None:
        raise ValueError(f"scale of {step.name!r} must be None, got {step.scale}")
    return Geometry(step.kernel_size, step.up, step.down, step.groups)


def sums_by_layer[Sums](
    reassemblies: Sequence[Reassembly],
    weight: jax.Array,
    sums_of: Callable[[Reassembly], Sums],
) -> dict[str, Sums]:
    """Adds up sums over all calls of each layer.

    Args:
        reassemblies: reassemblies of a network on a batch, whose kernels have one batch axis.
        weight: weight of each image of the batch, ``[B]``; 0 for padding.
        sums_of: function from a reassembly to its sums, a pytree of arrays.

    Returns:
        Sums by the name of the layer.

    Raises:
        ValueError: kernels do not have one batch axis of ``B`` images.
    """
    sums: dict[str, Sums] = {}
    for step in reassemblies:
        _check_images(step, weight)
        found = sums_of(step)
        earlier = sums.get(step.name)
        sums[step.name] = found if earlier is None else jax.tree.map(jnp.add, earlier, found)
    return sums


def _check_images(step: Reassembly, weight: jax.Array) -> None:
    """Checks that a reassembly has the kernels of a batch of images.

    Raises:
        ValueError: the kernels do not have one batch axis of ``B`` images.
    """
    if step.kernels.ndim != 4 or step.kernels.shape[0] != weight.size:
        raise ValueError(
            f"kernels of {step.name!r} must have one batch axis of the {weight.size} images, got "
            f"shape {step.kernels.shape}"
        )
