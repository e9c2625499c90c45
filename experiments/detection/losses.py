"""Losses of a two-stage detector: the losses of detectron2 and mmdet 2, averaged differently.

Each loss is averaged over the samples of an image, and then over images. Apart from the sampling,
it does not depend on how a batch is split over devices. detectron2 and mmdet 2 divide the mask loss
by the number of positive RoIs on a device, which gives more weight to images with more positive
RoIs. The box loss is smooth L1, as in mmdet 1; detectron2 and mmdet 2 use L1.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from experiments.detection.configs import DetectionConfig
from experiments.detection.model import rpn
from experiments.detection.model.boxes import encode, is_nonempty
from experiments.detection.model.detector import BOX_WEIGHTS, Detector
from experiments.detection.model.mask_targets import crop_masks
from experiments.detection.model.sampling import Objects, Sample, sample
from experiments.engine.step import LossFunction, LossSums
from experiments.models.input_normalization import normalize

# Absolute difference at which smooth L1 changes from quadratic to linear.
_RPN_BETA = 1 / 9
_BOX_BETA = 1.0


def make_loss_function(detector: Detector, config: DetectionConfig) -> LossFunction:
    """The loss function of a config, for :func:`experiments.engine.step.supervised_step`.

    Its metrics are the terms of the loss, ``rpn_objectness``, ``rpn_boxes``, ``classes``, ``boxes``
    and ``masks``, and ``positives``, the number of positive RoIs per image.
    """

    def loss_function(params: Any, model_state: Any, batch: Any, key: jax.Array) -> LossSums:
        def losses(detector: Detector) -> dict[str, jax.Array]:
            return _losses(detector, config, batch, key)

        found, changed = nn.apply(losses, detector, mutable=list(model_state))(
            {"params": params, **model_state}
        )
        sums = {name: value.sum() for name, value in found.items()}
        loss = sum(value for name, value in sums.items() if name != "positives")
        count = jnp.float32(batch["image"].shape[0])
        return LossSums(jnp.asarray(loss), count, sums, changed)

    return loss_function


def _losses(
    detector: Detector, config: DetectionConfig, batch: dict[str, jax.Array], key: jax.Array
) -> dict[str, jax.Array]:
    """The terms of the loss for each image, ``[B]``."""
    objects = Objects(batch["boxes"], batch["labels"], batch["crowd"])
    size = batch["size"]
    anchor_keys, proposal_keys = jax.random.split(key, (2, size.shape[0]))
    image = normalize(batch["image"], config.model.backbone.input, size)
    pyramid = detector.features(image, train=True)

    height, width = image.shape[1:3]
    logits, deltas, anchors = detector.score_anchors(pyramid, (height, width))
    all_anchors = jnp.asarray(np.concatenate(anchors))  # [E, 4]
    inside = jax.vmap(_inside, in_axes=(None, 0))(all_anchors, size)
    anchor_sample = jax.vmap(sample, in_axes=(0, None, 0, 0, None))(
        anchor_keys, all_anchors, inside, objects, config.anchor_sampler
    )
    objectness, rpn_boxes = jax.vmap(_rpn_losses, in_axes=(0, 0, None, 0, 0))(
        jnp.concatenate(logits, axis=1),
        jnp.concatenate(deltas, axis=1),
        all_anchors,
        objects.boxes,
        anchor_sample,
    )

    constants = jax.lax.stop_gradient((logits, deltas))
    proposals, valid = detector.propose(*constants, anchors, size, config.model.training_proposals)
    # The objects' own boxes are positive examples before the RPN finds the objects. A box without
    # area does not overlap even itself, and would be sampled as background.
    candidates = jnp.concatenate([proposals, objects.boxes], axis=1)
    usable = jnp.concatenate([valid, objects.single & is_nonempty(objects.boxes)], axis=1)
    rois = jax.vmap(sample, in_axes=(0, 0, 0, 0, None))(
        proposal_keys, candidates, usable, objects, config.proposal_sampler
    )
    boxes = jnp.take_along_axis(candidates, rois.index[..., None], axis=1)  # [B, S, 4]
    class_logits, box_deltas = detector.classify(pyramid, boxes)
    classes, box_losses = jax.vmap(_box_losses)(class_logits, box_deltas, boxes, objects, rois)
    found = {
        "rpn_objectness": objectness,
        "rpn_boxes": rpn_boxes,
        "classes": classes,
        "boxes": box_losses,
        "positives": rois.positive.sum(axis=1).astype(jnp.float32),
    }
    if config.model.masks:
        count = config.proposal_sampler.max_positives
        found["masks"] = mask_losses(detector, pyramid, batch["masks"], objects, boxes, rois, count)
    return found


def _inside(anchors: Float[Array, "anchors 4"], size: jax.Array) -> Bool[Array, " anchors"]:
    """Which anchors lie entirely within the image. As in mmdet 1, no others are sampled."""
    height, width = size[0].astype(anchors.dtype), size[1].astype(anchors.dtype)
    starts = (anchors[:, 0] >= 0) & (anchors[:, 1] >= 0)
    return starts & (anchors[:, 2] <= width) & (anchors[:, 3] <= height)


def _rpn_losses(
    logits: jax.Array,
    deltas: jax.Array,
    anchors: jax.Array,
    object_boxes: jax.Array,
    chosen: Sample,
) -> tuple[jax.Array, jax.Array]:
    number = jnp.maximum(chosen.valid.sum(), 1).astype(jnp.float32)
    objectness = optax.sigmoid_binary_cross_entropy(
        logits[chosen.index], chosen.positive.astype(jnp.float32)
    )
    target = encode(object_boxes[chosen.matched], anchors[chosen.index], rpn.WEIGHTS)
    distance = _smooth_l1(deltas[chosen.index] - target, _RPN_BETA)
    return (
        jnp.where(chosen.valid, objectness, 0.0).sum() / number,
        jnp.where(chosen.positive, distance, 0.0).sum() / number,
    )


def _box_losses(
    logits: jax.Array,
    deltas: jax.Array,
    boxes: jax.Array,
    objects: Objects,
    chosen: Sample,
) -> tuple[jax.Array, jax.Array]:
    background = logits.shape[-1] - 1
    label = jnp.where(chosen.positive, objects.labels[chosen.matched], background)
    number = jnp.maximum(chosen.valid.sum(), 1).astype(jnp.float32)
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    target = encode(objects.boxes[chosen.matched], boxes, BOX_WEIGHTS)
    # Background samples read an arbitrary class, whose distance is masked below.
    row = jnp.minimum(label, deltas.shape[1] - 1)
    class_deltas = jnp.take_along_axis(deltas, row[:, None, None], axis=1)[:, 0]  # [S, 4]
    distance = _smooth_l1(class_deltas - target, _BOX_BETA)
    return (
        jnp.where(chosen.valid, entropy, 0.0).sum() / number,
        jnp.where(chosen.positive, distance, 0.0).sum() / number,
    )


def mask_losses(
    detector: Detector,
    pyramid: Any,
    masks: jax.Array,
    objects: Objects,
    boxes: Float[Array, "batch rois 4"],
    chosen: Sample,
    count: int,
) -> Float[Array, " batch"]:
    """The loss of the masks of each image.

    Args:
        detector: detector with a mask head.
        pyramid: feature pyramid.
        masks: masks of the objects over their boxes, ``[B, N, m, m]``.
        objects: objects of each image.
        boxes: sampled regions in pixels, ``[B, S, 4]``.
        chosen: how the regions were sampled.
        count: number of regions that may be positive. They come first, and only they have masks.
    """
    boxes, matched = boxes[:, :count], chosen.matched[:, :count]
    positive = chosen.positive[:, :count]
    labels = jnp.maximum(jnp.take_along_axis(objects.labels, matched, axis=1), 0)
    logits = detector.predict_masks(pyramid, boxes, labels)  # [B, S, M, M]
    side = logits.shape[-1]
    targets = jax.vmap(functools.partial(crop_masks, size=side))(
        masks, objects.boxes, matched, boxes
    )
    entropy = optax.sigmoid_binary_cross_entropy(logits, targets).mean(axis=(2, 3))  # [B, S]
    number = jnp.maximum(positive.sum(axis=1), 1).astype(jnp.float32)
    return jnp.where(positive, entropy, 0.0).sum(axis=1) / number


def _smooth_l1(difference: jax.Array, beta: float) -> jax.Array:
    """Smooth L1, summed over the four coordinates of each box."""
    return beta * optax.huber_loss(difference / beta, delta=1.0).sum(axis=-1)
