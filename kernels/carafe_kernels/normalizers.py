"""Kernel normalisers (section 3.2, Table 14): from predicted logits to reassembly weights.

Each normaliser has two forms. One normalises along an axis of an array, for XLA, which also
differentiates it. The other normalises a sequence with one array for each tap, for GPU kernels that
hold the taps of a pixel in registers; this module also defines its gradient.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from carafe_kernels.accumulation import accumulator_dtype
from carafe_kernels.axes import merge_axes, split_axis
from carafe_kernels.geometry import Dimension, Geometry


def _sigmoid_normalized(logits: jax.Array) -> jax.Array:
    # sigmoid(l) / sum(sigmoid(l)) = softmax(log sigmoid(l)), which cannot divide 0 by 0.
    return jax.nn.softmax(jax.nn.log_sigmoid(logits), axis=-1)


NORMALIZERS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "softmax": jax.nn.softmax,
    "sigmoid": jax.nn.sigmoid,
    "sigmoid_normalized": _sigmoid_normalized,
}


def normalized_dtype(logits_dtype: np.dtype) -> np.dtype:
    """The dtype of the weights that :func:`normalize` returns: float32, or float64 for float64."""
    return accumulator_dtype(logits_dtype)


def normalize(
    logits: Float[Array, "batch height width logit_channels"],
    geometry: Geometry,
    size: tuple[Dimension, Dimension],
    normalizer: str,
) -> Float[Array, "batch out_height out_width weight_channels"]:
    """Normalises logits into one reassembly kernel per output pixel.

    The normaliser runs over all ``k * k`` taps of a kernel, including taps that lie outside the
    map. For the order of the logits' channels see :attr:`Geometry.logit_channels`.

    Args:
        logits: logits ``[B, ceil(H / down), ceil(W / down), up * up * groups * k * k]``.
        geometry: geometry of the reassembly, with the predictor's ``up`` and ``down``, which need
            not be in lowest terms.
        size: ``(H, W)`` of the map that will be reassembled.
        normalizer: name of the normaliser, a key of :data:`NORMALIZERS`.

    Returns:
        Weights ``[B, H', W', groups * k * k]`` in float32, or float64 for float64 logits.
    """
    logits = logits.astype(normalized_dtype(logits.dtype))
    kernels = split_axis(logits, 3, geometry.up, geometry.up, geometry.groups, geometry.taps)
    weights = NORMALIZERS[normalizer](kernels)  # [b, rows, columns, up, up, groups, taps]
    weights = merge_axes(jnp.moveaxis(weights, 3, 2), 5)  # [b, rows, up, columns, up, n]
    weights = merge_axes(merge_axes(weights, 3), 1)
    height, width = map(geometry.output_size, size)
    return weights[:, :height, :width]


def _log_sigmoid(logit: jax.Array) -> jax.Array:
    # Pallas lowers log1p for no GPU. The difference is below the epsilon of float32.
    return jnp.minimum(logit, 0) - jnp.log(1 + jnp.exp(-jnp.abs(logit)))


def _sigmoid(logit: jax.Array) -> jax.Array:
    return 1 / (1 + jnp.exp(-logit))


def _softmax(logits: Sequence[jax.Array]) -> list[jax.Array]:
    maximum = functools.reduce(jnp.maximum, logits)
    exponentials = [jnp.exp(logit - maximum) for logit in logits]
    reciprocal = 1 / functools.reduce(jnp.add, exponentials)
    return [exponential * reciprocal for exponential in exponentials]


def tap_weights(logits: Sequence[jax.Array], normalizer: str) -> list[jax.Array]:
    """The weights of one reassembly kernel from its logits, with one array for each tap.

    Args:
        logits: ``k * k`` float32 arrays of one shape, one for each tap.
        normalizer: name of the normaliser, a key of :data:`NORMALIZERS`.
    """
    match normalizer:
        case "softmax":
            return _softmax(logits)
        case "sigmoid":
            return [_sigmoid(logit) for logit in logits]
        case "sigmoid_normalized":
            return _softmax([_log_sigmoid(logit) for logit in logits])
    raise ValueError(f"normalizer must be one of {sorted(NORMALIZERS)}, got {normalizer!r}")


def tap_logit_gradients(
    logits: Sequence[jax.Array], weight_gradients: Sequence[jax.Array], normalizer: str
) -> list[jax.Array]:
    """The gradient with respect to the logits of one kernel, with one array for each tap.

    The weights are computed again, which is cheaper than reading them.

    Args:
        logits: ``k * k`` float32 arrays of one shape, one for each tap.
        weight_gradients: gradients with respect to the weights, one array for each tap.
        normalizer: name of the normaliser, a key of :data:`NORMALIZERS`.
    """
    weights = tap_weights(logits, normalizer)
    if normalizer == "sigmoid":
        return [g * w * (1 - w) for g, w in zip(weight_gradients, weights, strict=True)]
    products = [g * w for g, w in zip(weight_gradients, weights, strict=True)]
    mean = functools.reduce(jnp.add, products)
    gradients = [w * (g - mean) for g, w in zip(weight_gradients, weights, strict=True)]
    if normalizer == "sigmoid_normalized":
        return [g * _sigmoid(-logit) for g, logit in zip(gradients, logits, strict=True)]
    return gradients
