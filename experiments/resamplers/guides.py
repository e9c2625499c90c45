"""Guides: maps of the size of the result, which some upsamplers read beside the map."""

from typing import Any

import jax
from jaxtyping import Array, Float

from experiments.resamplers.checks import checked_map
from experiments.resamplers.interpolation import nearest


def checked_guide(x: jax.Array, guide: Any, *, same_channels: bool = False) -> jax.Array:
    """Returns a guide as a JAX array.

    Args:
        x: map ``[B, H, W, C]``.
        guide: guide ``[B, H', W', D]``; half of its size, rounded up, is the size of ``x``.
        same_channels: whether ``D`` must be ``C``.

    Raises:
        ValueError: the guide has another rank, batch, size or number of channels, or does not have
            a floating-point dtype.
    """
    guide = checked_map("guide", guide)
    batch, height, width, channels = guide.shape
    half = (batch, -(-height // 2), -(-width // 2))
    if half != x.shape[:3] or (same_channels and channels != x.shape[3]):
        last = x.shape[3] if same_channels else "D"
        raise ValueError(
            f"guide must be [B, 2 * H, 2 * W, {last}] for x of shape {x.shape}, or one pixel less "
            f"along an axis, got shape {guide.shape}"
        )
    return guide


def nearest_to(
    size: tuple[int, int], x: Float[Array, "batch height width channels"]
) -> Float[Array, "batch out_height out_width channels"]:
    """Doubles a map by nearest interpolation, and crops it at its end.

    Args:
        size: height and width of the result.
        x: map ``[B, H, W, C]``.
    """
    return nearest(x)[:, : size[0], : size[1]]
