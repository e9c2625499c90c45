"""Which share of the weight of kernels lies inside the map, by the distance to its border.

Features outside a map count as zero, and the normaliser does not know which taps are outside. So a
map fades at its border, unless the kernels there have their weight inside.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from carafe_jax import reassemble
from carafe_jax.sources import Reassembly
from experiments.kernel_studies.geometry import geometry_of, sums_by_layer


class RingSums[Values](NamedTuple):
    """Sums over the output pixels of a layer, by ring.

    Ring ``d`` has the pixels whose centre is ``d`` input pixels away from the nearest border pixel
    of the map. The last ring, of the radius of the kernel, has also all pixels further inside:
    their windows lie in the map.

    Attributes:
        inside: sums of the share of a kernel's weight inside the map, ``[rings]``.
        box: sums of the share of a box filter's weight inside the map, ``[rings]``.
        pixels: numbers of pixels, ``[rings]``.
    """

    inside: Values
    box: Values
    pixels: Values


def ring_sums(
    reassemblies: Sequence[Reassembly], weight: Float[Array, " batch"]
) -> dict[str, RingSums[jax.Array]]:
    """Sums the share of the weight inside the map over pixels and images, for all calls of a layer.

    The weight inside the map is divided by the whole weight of the kernel, which is 1 except with
    the normaliser ``"sigmoid"``. With several groups, the share of a pixel is the mean over groups.

    Args:
        reassemblies: reassemblies of a network on a batch, whose kernels have one batch axis.
        weight: weight of each image of the batch, ``[B]``; 0 for padding.

    Returns:
        Sums by the name of the layer.

    Raises:
        ValueError: kernels do not have one batch axis of ``B`` images.
    """

    def sums_of(step: Reassembly) -> RingSums[jax.Array]:
        geometry = geometry_of(step)
        members = np.eye(geometry.radius + 1, dtype=np.float32)[rings(step)]  # [H', W', rings]
        box = _share_inside(step, jnp.ones_like(step.kernels[:1]))
        return RingSums(
            _by_ring(_share_inside(step, step.kernels), weight, members),
            _by_ring(box, weight.sum(keepdims=True), members),
            weight.sum() * members.sum(axis=(0, 1)),
        )

    return sums_by_layer(reassemblies, weight, sums_of)


def rings(step: Reassembly) -> Int[np.ndarray, "out_height out_width"]:
    """Returns the ring of each output pixel of a reassembly; see :class:`RingSums`.

    Args:
        step: reassembly of a layer.
    """
    geometry = geometry_of(step)
    rows, columns = (
        np.array(
            [
                min(geometry.centre(index), size - 1 - geometry.centre(index))
                for index in range(geometry.output_size(size))
            ]
        )
        for size in step.size
    )
    return np.minimum(np.minimum(rows[:, None], columns[None, :]), geometry.radius)


def _share_inside(step: Reassembly, kernels: jax.Array) -> jax.Array:
    """The share of the weight of each pixel inside the map, ``[B, H', W']``."""
    # The reassembly of ones sums the weights of the taps inside.
    inside = reassemble(
        jnp.ones((kernels.shape[0], *step.size, step.groups), kernels.dtype),
        kernels,
        kernel_size=step.kernel_size,
        up=step.up,
        down=step.down,
        groups=step.groups,
        implementation="xla",
    )
    whole = kernels.reshape(*kernels.shape[:-1], step.groups, step.kernel_size**2).sum(axis=-1)
    return (inside / whole).mean(axis=-1)


def _by_ring(inside: jax.Array, weight: jax.Array, members: np.ndarray) -> jax.Array:
    return jnp.einsum(
        "bhw,b,hwr->r",
        inside,
        weight.astype(inside.dtype),
        members.astype(inside.dtype),
        precision=jax.lax.Precision.HIGHEST,
    )
