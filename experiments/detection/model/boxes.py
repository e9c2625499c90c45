"""Boxes: areas, overlaps, clipping, and their coding as offsets from reference boxes.

A box is ``(x1, y1, x2, y2)`` in continuous pixels: pixel (0, 0) covers [0, 1] x [0, 1], and a
box's width is ``x2 - x1``. One with ``x2 <= x1`` or ``y2 <= y1`` is empty: it has no area and
overlaps nothing. The network proposes and detects no box with a side below a hundredth of a pixel;
see :func:`is_nonempty`.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Weights = tuple[float, float, float, float]

# What a step may enlarge a box by, as in detectron2: exp would overflow early in training.
_LARGEST_LOG_SCALE = math.log(1000 / 16)
# In pixels. torchvision drops detections with a shorter side. Where sides divide or have their
# logarithm taken, shorter ones count as this.
_SHORTEST_SIDE = 1e-2


def area(boxes: Float[Array, "*batch 4"]) -> Float[Array, "*batch"]:
    """Areas in pixels; that of an empty box is 0."""
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def is_nonempty(boxes: Float[Array, "*batch 4"]) -> Bool[Array, "*batch"]:
    """Whether boxes that were clipped to an image are at least a hundredth of a pixel on each side.

    False for boxes that lie beyond the image, as clipping leaves them no area, and for boxes with a
    NaN. Such boxes overlap nothing, or next to nothing, and NMS would keep all of them.

    Args:
        boxes: ``[..., 4]``, clipped.
    """
    return (boxes[..., 2:] - boxes[..., :2] >= _SHORTEST_SIDE).all(axis=-1)


def pairwise_iou(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """Intersection over union of each box of ``a`` with each of ``b``; 0 where the union is 0."""
    shared = _pairwise_intersection(a, b)
    return _ratio(shared, area(a)[:, None] + area(b)[None, :] - shared)


def pairwise_coverage(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """The share of each box of ``a`` that lies in each of ``b``; 0 where that of ``a`` is empty.

    It is what COCO takes in place of the intersection over union where ``b`` is a crowd.
    """
    shared = _pairwise_intersection(a, b)
    return _ratio(shared, jnp.broadcast_to(area(a)[:, None], shared.shape))


def clip(
    boxes: Float[Array, "*batch 4"], size: Int[Array, "2"] | tuple[int, int]
) -> Float[Array, "*batch 4"]:
    """Moves edges that are outside an image to its border.

    Args:
        boxes: ``[..., 4]``.
        size: height and width of the image in pixels.
    """
    height, width = (jnp.asarray(side, boxes.dtype) for side in (size[0], size[1]))
    x, y = jnp.clip(boxes[..., 0::2], 0, width), jnp.clip(boxes[..., 1::2], 0, height)
    return jnp.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], axis=-1)


def encode(
    boxes: Float[Array, "*#batch 4"], references: Float[Array, "*#batch 4"], weights: Weights
) -> Float[Array, "*batch 4"]:
    """What a network should predict to turn references into boxes: the inverse of :func:`decode`.

    With centre ``(x, y)``, width and height of the box, and ``r`` of the reference::

        (w_x (x - x_r) / width_r,  w_y (y - y_r) / height_r,
         w_w log(width / width_r), w_h log(height / height_r))

    From R-CNN (Girshick et al., CVPR 2014, appendix C), weighted as in detectron2. Empty boxes give
    finite numbers: sides count as a hundredth of a pixel at least.

    Args:
        boxes: ``[..., 4]``.
        references: anchors or proposals, ``[..., 4]``.
        weights: of the four numbers; 1, 1, 1, 1 for the RPN and 10, 10, 5, 5 for the box head.
            mmdet calls their inverses standard deviations.
    """
    centre, sides = _centre_and_sides(boxes)
    reference_centre, reference_sides = _centre_and_sides(references)
    shift = (centre - reference_centre) / reference_sides
    scale = jnp.log(sides) - jnp.log(reference_sides)
    return jnp.concatenate([shift, scale], axis=-1) * _row(weights, shift.ndim)


def decode(
    deltas: Float[Array, "*#batch 4"], references: Float[Array, "*#batch 4"], weights: Weights
) -> Float[Array, "*batch 4"]:
    """Turns references into boxes by what a network predicts; see :func:`encode`.

    Logarithms above ``log(1000 / 16)`` count as that, as in detectron2. mmdet limits what shrinks a
    box too, to ``-log(1000 / 16)``.

    Args:
        deltas: ``[..., 4]``.
        references: anchors or proposals, ``[..., 4]``.
        weights: of the four numbers.
    """
    centre, sides = _centre_and_sides(references)
    deltas = deltas / _row(weights, deltas.ndim)
    centre = centre + deltas[..., :2] * sides
    sides = sides * jnp.exp(jnp.minimum(deltas[..., 2:], _LARGEST_LOG_SCALE))
    return jnp.concatenate([centre - sides / 2, centre + sides / 2], axis=-1)


def _pairwise_intersection(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    # One coordinate at a time, since a last axis of 2 would idle most of a vector unit.
    ax1, ay1, ax2, ay2 = (a[:, side, None] for side in range(4))
    bx1, by1, bx2, by2 = (b[None, :, side] for side in range(4))
    width = jnp.minimum(ax2, bx2) - jnp.maximum(ax1, bx1)
    height = jnp.minimum(ay2, by2) - jnp.maximum(ay1, by1)
    return jnp.maximum(width, 0) * jnp.maximum(height, 0)


def _ratio(numerator: Float[Array, "n m"], denominator: Float[Array, "n m"]) -> Float[Array, "n m"]:
    positive = denominator > 0
    # The inner where keeps the gradient of what is not taken finite.
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)


def _centre_and_sides(
    boxes: Float[Array, "*batch 4"],
) -> tuple[Float[Array, "*batch 2"], Float[Array, "*batch 2"]]:
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    return centre, jnp.maximum(boxes[..., 2:] - boxes[..., :2], _SHORTEST_SIDE)


def _row(weights: Weights, ndim: int) -> Float[Array, "*ones 4"]:
    return jnp.asarray(weights, jnp.float32).reshape(*[1] * (ndim - 1), 4)
