"""Boxes: areas, overlaps, clipping, and their coding as offsets from reference boxes.

A box is ``(x1, y1, x2, y2)`` in continuous pixel coordinates: pixel (0, 0) covers [0, 1] x [0, 1],
and the width of a box is ``x2 - x1``. A box with ``x2 <= x1`` or ``y2 <= y1`` is empty: its area is
0, and it overlaps nothing. By default the network never proposes or detects a box with a side below
a hundredth of a pixel; see :func:`is_nonempty`.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Weights = tuple[float, float, float, float]

# Largest logarithm of the factor by which decoding enlarges a box, as in the three libraries of
# experiments/detection/conventions.py: without it, exp would overflow early in training.
_LARGEST_LOG_SCALE = math.log(1000 / 16)
# In pixels. torchvision drops detections with a shorter side. Encoding clamps sides to it before a
# division or a logarithm.
_SHORTEST_SIDE = 1e-2


def area(boxes: Float[Array, "*batch 4"]) -> Float[Array, "*batch"]:
    """Areas in square pixels; the area of an empty box is 0."""
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def is_nonempty(
    boxes: Float[Array, "*batch 4"], shortest_side: float = _SHORTEST_SIDE
) -> Bool[Array, "*batch"]:
    """Whether both sides of boxes, clipped to an image, are long enough, and above 0.

    This is False for boxes outside the image, because clipping leaves them no area, and for boxes
    with a NaN. Since these boxes overlap almost nothing, NMS would keep all of them.

    Args:
        boxes: boxes clipped to the image, ``[..., 4]``.
        shortest_side: smallest length of a side, in pixels.
    """
    sides = boxes[..., 2:] - boxes[..., :2]
    return ((sides >= shortest_side) & (sides > 0)).all(axis=-1)


def pairwise_iou(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """Intersection over union of each box of ``a`` with each box of ``b``; 0 if the union is 0."""
    shared = _pairwise_intersection(a, b)
    return _ratio(shared, area(a)[:, None] + area(b)[None, :] - shared)


def pairwise_coverage(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """The fraction of the area of each box of ``a`` within each box of ``b``.

    The fraction is 0 if the box of ``a`` is empty. COCO uses it in place of the intersection over
    union if ``b`` is a crowd.
    """
    shared = _pairwise_intersection(a, b)
    return _ratio(shared, jnp.broadcast_to(area(a)[:, None], shared.shape))


def clip(
    boxes: Float[Array, "*batch 4"], size: Int[Array, "2"] | tuple[int, int]
) -> Float[Array, "*batch 4"]:
    """Clips boxes to an image.

    Args:
        boxes: boxes ``[..., 4]``.
        size: height and width of the image in pixels.
    """
    height, width = (jnp.asarray(side, boxes.dtype) for side in (size[0], size[1]))
    x, y = jnp.clip(boxes[..., 0::2], 0, width), jnp.clip(boxes[..., 1::2], 0, height)
    return jnp.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], axis=-1)


def encode(
    boxes: Float[Array, "*#batch 4"], references: Float[Array, "*#batch 4"], weights: Weights
) -> Float[Array, "*batch 4"]:
    """The deltas that turn references into boxes: the inverse of :func:`decode`.

    For a box with centre ``(x, y)``, and a reference with index ``r``, the deltas are::

        (w_x (x - x_r) / width_r,  w_y (y - y_r) / height_r,
         w_w log(width / width_r), w_h log(height / height_r))

    They are from R-CNN (Girshick et al., CVPR 2014, appendix C), weighted as in detectron2. The
    deltas of empty boxes are finite, because sides are clamped to at least a hundredth of a pixel.

    Args:
        boxes: boxes ``[..., 4]``.
        references: anchors or proposals, ``[..., 4]``.
        weights: weights of the four deltas; 1, 1, 1, 1 for the RPN and 10, 10, 5, 5 for the box
            head. mmdet calls their inverses standard deviations.

    Returns:
        The deltas ``[..., 4]``.
    """
    centre, sides = _centre_and_sides(boxes)
    reference_centre, reference_sides = _centre_and_sides(references)
    shift = (centre - reference_centre) / reference_sides
    scale = jnp.log(sides) - jnp.log(reference_sides)
    return jnp.concatenate([shift, scale], axis=-1) * _row(weights, shift.ndim)


def decode(
    deltas: Float[Array, "*#batch 4"],
    references: Float[Array, "*#batch 4"],
    weights: Weights,
    clamps_shrinking: bool = False,
) -> Float[Array, "*batch 4"]:
    """Turns references into boxes by deltas that a network predicts; see :func:`encode`.

    As in torchvision, detectron2 and mmdet 2, logarithms of the scale are clamped to at most
    ``log(1000 / 16)``.

    Args:
        deltas: predicted deltas ``[..., 4]``.
        references: anchors or proposals, ``[..., 4]``.
        weights: weights of the four deltas.
        clamps_shrinking: whether logarithms of the scale are also clamped to at least
            ``-log(1000 / 16)``, as in mmdet 2.

    Returns:
        The boxes ``[..., 4]``.
    """
    centre, sides = _centre(references), references[..., 2:] - references[..., :2]
    deltas = deltas / _row(weights, deltas.ndim)
    centre = centre + deltas[..., :2] * sides
    log_scale = jnp.minimum(deltas[..., 2:], _LARGEST_LOG_SCALE)
    if clamps_shrinking:
        log_scale = jnp.maximum(log_scale, -_LARGEST_LOG_SCALE)
    sides = sides * jnp.exp(log_scale)
    return jnp.concatenate([centre - sides / 2, centre + sides / 2], axis=-1)


def _pairwise_intersection(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    # One coordinate at a time: a last axis of length 2 would leave most of a vector unit idle.
    ax1, ay1, ax2, ay2 = (a[:, side, None] for side in range(4))
    bx1, by1, bx2, by2 = (b[None, :, side] for side in range(4))
    width = jnp.minimum(ax2, bx2) - jnp.maximum(ax1, bx1)
    height = jnp.minimum(ay2, by2) - jnp.maximum(ay1, by1)
    return jnp.maximum(width, 0) * jnp.maximum(height, 0)


def _ratio(numerator: Float[Array, "n m"], denominator: Float[Array, "n m"]) -> Float[Array, "n m"]:
    positive = denominator > 0
    # The inner where keeps the gradient finite where the denominator is 0.
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)


def _centre_and_sides(
    boxes: Float[Array, "*batch 4"],
) -> tuple[Float[Array, "*batch 2"], Float[Array, "*batch 2"]]:
    return _centre(boxes), jnp.maximum(boxes[..., 2:] - boxes[..., :2], _SHORTEST_SIDE)


def _centre(boxes: Float[Array, "*batch 4"]) -> Float[Array, "*batch 2"]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _row(weights: Weights, ndim: int) -> Float[Array, "*ones 4"]:
    return jnp.asarray(weights, jnp.float32).reshape(*[1] * (ndim - 1), 4)
