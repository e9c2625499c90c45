"""The kernels of a map that is rescaled by any scale, from the logits of a predictor.

A predictor with a factor ``up`` predicts a *field* of ``up * H`` by ``up * W`` kernels. At scale
``s`` output ``i'`` takes the kernel with index ``floor(i' * up / s)`` of the field. This kernel was
predicted for the source on which the output is centred. Kernels are not interpolated: taps of
neighbouring kernels may belong to other sources.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from carafe_kernels.axes import merge_axes, split_axis
from carafe_kernels.geometry import Geometry, Resize, outputs_by_index
from carafe_kernels.normalizers import NORMALIZERS, normalize, normalized_dtype
from carafe_kernels.sharding import resharded


def resized_kernels(
    logits: Float[Array, "batch height width logit_channels"],
    geometry: Geometry,
    resize: Resize,
    normalizer: str,
    offset_logits: Float[Array, "out_height out_width weight_channels"] | None = None,
) -> Float[Array, "batch out_height out_width weight_channels"]:
    """Reads the logits of each output and normalises them into one kernel per output pixel.

    Args:
        logits: logits ``[B, H, W, up * up * groups * k * k]``.
        geometry: geometry of the predictor, with ``down = 1``.
        resize: axes of the map that will be reassembled.
        normalizer: name of the normaliser, a key of :data:`NORMALIZERS`.
        offset_logits: values ``[H', W', groups * k * k]`` to add to the logits of each output, in
            the dtype of the result.

    Returns:
        Weights ``[B, H', W', groups * k * k]`` in float32, or in float64 for float64 logits.
    """
    if offset_logits is None and resize.crops(geometry):
        height, width = resize.size
        sources = resize.rows.sources, resize.columns.sources
        return normalize(logits, geometry, sources, normalizer)[:, :height, :width]
    up = geometry.up
    logits = logits.astype(normalized_dtype(logits.dtype))
    field = split_axis(logits, 3, up, up, geometry.weight_channels)
    field = merge_axes(jnp.moveaxis(field, 3, 2), 3)  # [b, H, up, W * up, n]
    field = merge_axes(field, 1)  # [b, H * up, W * up, n]
    for axis, of_axis in ((1, resize.rows), (2, resize.columns)):
        indices = tuple(map(int, of_axis.centres(up)))
        field = _select(_Selection(axis, field.shape[axis], indices), field)
    if offset_logits is not None:
        # Under explicit sharding both must be sharded over the same axes of a mesh.
        sharding = jax.typeof(field).sharding
        spec = PartitionSpec(*sharding.spec[1:])
        field += resharded(offset_logits, sharding.mesh, spec)[None].astype(field.dtype)
    kernels = split_axis(field, 3, geometry.groups, geometry.taps)
    return merge_axes(NORMALIZERS[normalizer](kernels), 3)


@dataclasses.dataclass(frozen=True)
class _Selection:
    """Entries of an axis, as a static argument of JAX.

    Args:
        axis: the axis.
        size: number of entries to select from.
        indices: the index of each selected entry, ascending.
    """

    axis: int
    size: int
    indices: tuple[int, ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _select(selection: _Selection, array: jax.Array) -> jax.Array:
    """Takes the selected entries. The gradient of ``jnp.take`` is a scatter, slow on a CPU."""
    return jnp.take(array, np.array(selection.indices, int), selection.axis, mode="clip")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum_selected(selection: _Selection, array: jax.Array) -> jax.Array:
    """Transposes :func:`_select`: sums the entries that were taken from the same entry."""
    slots = outputs_by_index(np.array(selection.indices, int), selection.size)
    terms = [jnp.take(array, slot, selection.axis, mode="fill", fill_value=0) for slot in slots.T]
    return functools.reduce(jnp.add, terms)


_select.defvjp(
    lambda selection, array: (_select(selection, array), None),
    lambda selection, _, cotangent: (_sum_selected(selection, cotangent),),
)
_sum_selected.defvjp(
    lambda selection, array: (_sum_selected(selection, array), None),
    lambda selection, _, cotangent: (_select(selection, cotangent),),
)
