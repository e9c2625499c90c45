"""The mean kernel of each CARAFE++ layer over a dataset."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from carafe_kernels.geometry import Geometry
from jaxtyping import Array, Float

from carafe_jax.sources import Reassembly
from experiments.kernel_studies.geometry import geometry_of, sums_by_layer


class Sums[Values](NamedTuple):
    """Sums over the output pixels of a layer, by the phases of the row and of the column.

    Attributes:
        kernels: sums of the kernels, ``[up, up, groups * k * k]``.
        pixels: numbers of pixels, ``[up, up]``.
    """

    kernels: Values
    pixels: Values


class KernelSums[Values](NamedTuple):
    """Sums of the kernels of a layer.

    Attributes:
        inner: sums over the output pixels whose whole window lies in the map.
        every: sums over all output pixels.
    """

    inner: Sums[Values]
    every: Sums[Values]


def kernel_sums(
    reassemblies: Sequence[Reassembly], weight: Float[Array, " batch"]
) -> dict[str, KernelSums[jax.Array]]:
    """Sums the kernels of each layer over pixels and images; all calls of a layer count.

    Args:
        reassemblies: reassemblies of a network on a batch, whose kernels have one batch axis.
        weight: weight of each image of the batch, ``[B]``; 0 for padding.

    Returns:
        Sums by the name of the layer.

    Raises:
        ValueError: kernels do not have one batch axis of ``B`` images.
    """

    def sums_of(step: Reassembly) -> KernelSums[jax.Array]:
        rows, columns = (_phases(geometry_of(step), size) for size in step.size)
        return KernelSums(
            _sums(step.kernels, weight, rows.inner, columns.inner),
            _sums(step.kernels, weight, rows.every, columns.every),
        )

    return sums_by_layer(reassemblies, weight, sums_of)


def mean_kernels(
    sums: Mapping[str, KernelSums[np.ndarray]],
) -> dict[str, Float[np.ndarray, "up up weight_channels"]]:
    """Computes the mean kernels of each layer, for each phase of the row and of the column.

    Kernels near a border may depend on it, so only those output pixels count whose whole window
    lies in the map. If a phase of a layer has no such pixel, because all maps are small, all pixels
    of the layer count; see :func:`layers_of_small_maps`.

    Args:
        sums: sums of :func:`kernel_sums` over a dataset, by the name of the layer.

    Returns:
        Kernels ``[up, up, groups * k * k]`` in float32 by the name of the layer, for
        :func:`experiments.kernel_studies.replacement.replaced_kernels`.
    """
    small = layers_of_small_maps(sums)
    means = {}
    for name, found in sums.items():
        kernels, pixels = found.every if name in small else found.inner
        means[name] = np.asarray(kernels / pixels[..., None], np.float32)
    return means


def layers_of_small_maps(sums: Mapping[str, KernelSums[np.ndarray]]) -> tuple[str, ...]:
    """Returns the layers with a phase that has no pixel whose whole window lies in the map.

    Args:
        sums: sums of :func:`kernel_sums` over a dataset, by the name of the layer.
    """
    return tuple(name for name, found in sums.items() if not found.inner.pixels.all())


class _Phases(NamedTuple):
    """Which outputs along an axis have each phase, ``[outputs, up]`` of zeros and ones."""

    inner: np.ndarray
    every: np.ndarray


def _phases(geometry: Geometry, size: int) -> _Phases:
    outputs = np.arange(geometry.output_size(size))
    centres = np.array([geometry.centre(index) for index in outputs.tolist()])
    every = np.eye(geometry.up, dtype=np.float32)[outputs % geometry.up]
    inside = (centres >= geometry.radius) & (centres < size - geometry.radius)
    return _Phases(every * inside[:, None], every)


def _sums(
    kernels: jax.Array, weight: jax.Array, rows: np.ndarray, columns: np.ndarray
) -> Sums[jax.Array]:
    sums = jnp.einsum(
        "bhwn,hp,wq,b->pqn",
        kernels,
        rows.astype(kernels.dtype),
        columns.astype(kernels.dtype),
        weight.astype(kernels.dtype),
        precision=jax.lax.Precision.HIGHEST,
    )
    return Sums(sums, weight.sum() * np.outer(rows.sum(axis=0), columns.sum(axis=0)))
