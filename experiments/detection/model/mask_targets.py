"""Targets of the mask head: objects' masks, resampled to regions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, Num

# A half, less the error caused by rounded corners of regions. If the region is the object's own box
# and the object's mask has twice the target's size, every second edge of the mask is exactly a half
# in the target.
_HALF = 0.5 - 1e-3


def crop_masks(
    masks: Num[Array, "objects side side"],
    boxes: Float[Array, "objects 4"],
    matched: Int[Array, " rois"],
    rois: Float[Array, "rois 4"],
    size: int = 28,
) -> Float32[Array, "rois size size"]:
    """Resamples the mask of each region's object to the region's grid.

    Masks are relative to their boxes, so all have one small size: an ``M x M`` grid of bins over
    the box. They are interpolated bilinearly at the centres of the region's bins, and are 0 outside
    the box. A target is 1 from a half on, less a thousandth for rounding.

    Args:
        masks: masks of the objects, in [0, 1], ``[N, M, M]``.
        boxes: boxes of the objects in pixels, ``[N, 4]``.
        matched: index of each region's object, ``[R]``.
        rois: boxes of the regions in pixels, ``[R, 4]``.
        size: number of bins along each axis of a region.

    Returns:
        Targets, 0 or 1, ``[R, size, size]``.

    Raises:
        ValueError: the shapes of the arguments contradict each other.
    """
    if masks.ndim != 3 or masks.shape[1] != masks.shape[2]:
        raise ValueError(f"masks must be [N, M, M], got {masks.shape}")
    if boxes.shape != (masks.shape[0], 4):
        raise ValueError(f"boxes must be [N, 4] with N = {masks.shape[0]}, got {boxes.shape}")
    if rois.shape != (*matched.shape, 4) or matched.ndim != 1:
        raise ValueError(
            f"matched and rois must be [R] and [R, 4], got {matched.shape} and {rois.shape}"
        )
    side = masks.shape[1]
    owners = boxes[matched]  # [R, 4]
    columns = _axis_weights(rois[:, 0::2], owners[:, 0::2], side, size)  # [R, size, M]
    rows = _axis_weights(rois[:, 1::2], owners[:, 1::2], side, size)
    # In full precision: a value of exactly a half must not be rounded far below it.
    values = jnp.einsum(
        "rin,rnm,rjm->rij",
        rows,
        masks[matched].astype(jnp.float32),
        columns,
        precision=jax.lax.Precision.HIGHEST,
    )
    return (values >= _HALF).astype(jnp.float32)


def _axis_weights(
    rois: Float[Array, "rois 2"], boxes: Float[Array, "rois 2"], side: int, size: int
) -> Float32[Array, "rois size side"]:
    """Bilinear weights of a box's bins at the centres of a region's bins, along one axis."""
    at = (jnp.arange(size, dtype=jnp.float32) + 0.5) / size
    low, high = rois[:, :1], rois[:, 1:]
    position = low + at[None, :] * (high - low)  # [R, size]
    start, stop = boxes[:, :1], boxes[:, 1:]
    inside = (position >= start) & (position <= stop) & (start < stop)
    length = jnp.where(start < stop, stop - start, 1)
    in_bins = jnp.clip((position - start) / length * side - 0.5, 0, side - 1)
    distance = jnp.abs(in_bins[..., None] - jnp.arange(side, dtype=jnp.float32)[None, None, :])
    return jnp.where(inside[..., None], jnp.maximum(1 - distance, 0), 0)
