"""Targets of the mask head: masks of objects, as regions see them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, Num

# A half, less what rounded corners of regions change. Where a region is the object's own box, every
# second edge of a mask of twice the size lies at a half.
_HALF = 0.5 - 1e-3


def crop_masks(
    masks: Num[Array, "objects side side"],
    boxes: Float[Array, "objects 4"],
    matched: Int[Array, " rois"],
    rois: Float[Array, "rois 4"],
    size: int = 28,
) -> Float32[Array, "rois size size"]:
    """Resamples the mask of each region's object on the region's grid.

    Masks are relative to their boxes, so that all are of one small size: cells of an M x M grid
    over the box. They are interpolated bilinearly at the centres of the region's cells, are 0
    outside the box, and count from a half, less a thousandth for rounding.

    Args:
        masks: ``[N, M, M]`` in [0, 1].
        boxes: ``[N, 4]``, of the objects, in pixels.
        matched: ``[R]``, the object of each region.
        rois: ``[R, 4]`` in pixels.
        size: cells along each axis of a region.

    Returns:
        ``[R, size, size]`` of zeros and ones.

    Raises:
        ValueError: shapes do not fit each other.
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
    # In full precision, since what lies at a half must not fall far below it.
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
    """Bilinear weights of a box's cells for the centres of a region's, along one axis."""
    at = (jnp.arange(size, dtype=jnp.float32) + 0.5) / size
    low, high = rois[:, :1], rois[:, 1:]
    position = low + at[None, :] * (high - low)  # [R, size]
    start, stop = boxes[:, :1], boxes[:, 1:]
    inside = (position >= start) & (position <= stop) & (start < stop)
    length = jnp.where(start < stop, stop - start, 1)
    cell = jnp.clip((position - start) / length * side - 0.5, 0, side - 1)
    distance = jnp.abs(cell[..., None] - jnp.arange(side, dtype=jnp.float32)[None, None, :])
    return jnp.where(inside[..., None], jnp.maximum(1 - distance, 0), 0)
