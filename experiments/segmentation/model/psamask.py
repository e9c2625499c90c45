"""Weights of all pairs of pixels from masks of relative positions, for PSANet (reference 48).

A mask has ``m * m`` values, one for each offset between two pixels along the two axes. Its middle,
with offset 0, is entry ``(m - 1) // 2`` along each axis.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.resamplers.checks import checked_integer, checked_pixels

Direction = Literal["collect", "distribute"]


def psamask(
    x: Float[Array, "batch height width entries"], side: int, direction: Direction
) -> Float[Array, "batch target source"]:
    """Arranges the masks of all pixels as a matrix of targets and sources.

    Pixel ``(i, j)`` has the number ``i * W + j``. Let ``half`` be ``(side - 1) // 2``. With
    ``"collect"``, the mask of a target has the weights of the sources around it::

        result[:, h * W + w, (h + p - half) * W + w + q - half] = x[:, h, w, p * side + q]

    With ``"distribute"``, the mask of a source has its weights for the targets around it: the
    matrix is the transpose. Pairs of pixels that are further apart than the mask reaches have the
    weight 0; entries of a mask outside of the map are not used.

    The matrix is made of paddings and reshapes, because the gradient of a gather is a scatter.
    It has ``(H * W)**2`` elements for each image, and the intermediate arrays have up to
    ``2 * H * W**2 * side`` or ``2 * H**2 * W**2`` elements.

    Args:
        x: masks ``[B, H, W, side * side]`` of at least one pixel.
        side: side of a mask, odd or even.
        direction: ``"collect"`` or ``"distribute"``.

    Returns:
        A matrix ``[B, H * W, H * W]`` for each image, first axis targets, second axis sources, in
        the dtype of ``x``.

    Raises:
        ValueError: ``x`` does not have rank 4 or is empty, ``side`` is not an integer of at least
            1 or its square is not the number of channels, or ``direction`` is unknown.
    """
    x, side = checked_pixels("x", x), checked_integer("side", side, 1)
    batch, height, width, entries = x.shape
    if entries != side**2:
        raise ValueError(f"x must have {side**2} channels for side {side}, got shape {x.shape}")
    if direction not in get_args(Direction):
        raise ValueError(f"direction must be one of {get_args(Direction)}, got {direction!r}")
    x = x.reshape(batch, height, width, side, side)
    x = _absolute(x.swapaxes(2, 3))  # [B, H, p, W, columns]
    x = _absolute(x.transpose(0, 3, 4, 1, 2))  # [B, W, columns, H, rows]
    pixels, others = (0, 3, 1), (4, 2)
    matrix = x.transpose(*pixels, *others).reshape(batch, height * width, height * width)
    return matrix if direction == "collect" else matrix.swapaxes(1, 2)


def _absolute(x: jax.Array) -> jax.Array:
    """Moves values from relative to absolute positions along one axis.

    Args:
        x: values ``[..., L, m]`` of ``L`` positions, for relative positions from
            ``-(m - 1) // 2``.

    Returns:
        Values ``[..., L, L]``, where entry ``(i, t)`` is ``x[i, t - i + (m - 1) // 2]``, or 0.
    """
    *batch, length, side = x.shape
    # Relative positions from -(L - 1) to L, one more than needed.
    before = length - 1 - (side - 1) // 2
    after = 2 * length - side - before
    unpadded = [(0, 0, 0)] * (x.ndim - 1)
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [*unpadded, (before, after, 0)])  # [..., L, 2 * L]
    # In rows that are one element shorter, each row is shifted by one against the row before.
    x = x.reshape(*batch, 2 * length * length)[..., length - 1 : -1]
    return x.reshape(*batch, length, 2 * length - 1)[..., :length]
