"""Kernel normalisers (section 3.2, Table 14): from predicted logits to reassembly weights."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from carafe_kernels.axes import merge_axes, split_axis
from carafe_kernels.geometry import Geometry


def _sigmoid_normalized(logits: jax.Array) -> jax.Array:
    # sigmoid(l) / sum(sigmoid(l)) = softmax(log sigmoid(l)): the form that cannot divide 0 by 0.
    return jax.nn.softmax(jax.nn.log_sigmoid(logits), axis=-1)


NORMALIZERS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "softmax": jax.nn.softmax,
    "sigmoid": jax.nn.sigmoid,
    "sigmoid_normalized": _sigmoid_normalized,
}


def normalize(
    logits: Float[Array, "batch height width logit_channels"],
    geometry: Geometry,
    size: tuple[int, int],
    normalizer: str,
) -> Float[Array, "batch out_height out_width weight_channels"]:
    """Turns logits at the resolution of the encoder into one normalised kernel per output pixel.

    The normaliser runs over all ``k * k`` taps of a kernel, also over taps that lie outside
    the map, and in float32 at least. For the order of the logits' channels see
    :attr:`Geometry.logit_channels`.

    Args:
        logits: ``[B, ceil(H / down), ceil(W / down), up * up * groups * k * k]``.
        geometry: shape of the reassembly, with ``up`` and ``down`` as the predictor had them.
        size: ``(H, W)`` of the map that will be reassembled.
        normalizer: a key of :data:`NORMALIZERS`.

    Returns:
        Weights ``[B, H', W', groups * k * k]`` in float32, or float64 for float64 logits.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    kernels = split_axis(logits, 3, geometry.up, geometry.up, geometry.groups, geometry.taps)
    weights = NORMALIZERS[normalizer](kernels)  # [b, rows, columns, up, up, groups, taps]
    weights = merge_axes(jnp.moveaxis(weights, 3, 2), 5)  # [b, rows, up, columns, up, n]
    weights = merge_axes(merge_axes(weights, 3), 1)
    height, width = map(geometry.output_size, size)
    return weights[:, :height, :width]
