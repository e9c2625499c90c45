"""1x1 convolutions as matrix products."""

from typing import Any

import jax
import jax.numpy as jnp


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: Any,
    padding: Any,
    *,
    lhs_dilation: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
) -> jax.Array:
    """Convolves for ``nn.Conv(conv_general_dilated=convolve)``, 1x1 kernels by a matrix product.

    It computes what ``jax.lax.conv_general_dilated`` does, but for rounding. On a CPU, XLA's
    convolution takes several times as long as a matrix product for the gradient of a 1x1 kernel;
    ``experiments/README.md`` has the figures. On a GPU neither has been measured.

    The product merges batch, rows and columns, so devices must share the batch alone: a map whose
    rows or columns are sharded would be gathered.

    Args:
        x: ``[B, H, W, C]``.
        kernel: ``[h, w, C, features]``.
        strides: of rows and columns.
        padding: of rows and columns, as pairs, or ``"SAME"`` or ``"VALID"``.
        lhs_dilation: of the map.
        feature_group_count: groups of channels with kernels of their own.
        precision: of the products.
        rhs_dilation: of the kernel.
        dimension_numbers: order of the axes, which must be that of ``x`` and ``kernel`` here.

    Returns:
        ``[B, H', W', features]``.
    """
    unpadded = isinstance(padding, str) or all(pair == (0, 0) for pair in padding)
    undilated = lhs_dilation is None or set(lhs_dilation) == {1}
    if kernel.shape[:2] != (1, 1) or feature_group_count > 1 or not (unpadded and undilated):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            strides,
            padding,
            lhs_dilation=lhs_dilation,
            feature_group_count=feature_group_count,
            precision=precision,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
        )
    rows, columns = strides
    x = x[:, ::rows, ::columns]
    # As one long axis: XLA's product over three axes is as slow as its convolution in 16 bits.
    pixels = x.reshape(-1, x.shape[-1])  # [B * H' * W', C]
    y = jnp.matmul(pixels, kernel[0, 0], precision=precision)
    return y.reshape(*x.shape[:-1], -1)
