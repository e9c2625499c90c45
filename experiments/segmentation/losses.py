"""The loss of the segmentation task: the cross-entropy of each pixel's class."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, UInt8

from experiments.data.classes import UNLABELLED
from experiments.engine.step import LossFunction, LossSums
from experiments.models.input_normalization import normalize
from experiments.resamplers.interpolation import resize
from experiments.segmentation.configs import LossConfig
from experiments.segmentation.model.segmenter import Segmenter


def make_loss_function(model: Segmenter, config: LossConfig) -> LossFunction:
    """The loss of a network on one device's share of a batch, as sums over its pixels.

    Args:
        model: network that is trained.
        config: config of the loss.

    Returns:
        A function of batches from
        :func:`experiments.segmentation.data.batches.training_batches`. Its metrics are
        ``accuracy``, the number of pixels whose class is right, and, with an auxiliary head,
        ``auxiliary``, the sum of the head's cross-entropy before its weight. Pixels without a class
        contribute nothing; if no pixel has a class, the loss is 0.
    """
    return functools.partial(_loss, model, config)


def reduce_labels(
    labels: UInt8[Array, "batch height width"], size: tuple[int, int]
) -> UInt8[Array, "batch rows columns"]:
    """Reduces label maps to a smaller size by nearest neighbour.

    For a quarter of the size, the nearest pixel is in row ``4 * i + 2`` and column ``4 * j + 2``.

    Args:
        labels: classes, uint8 ``[B, H, W]``.
        size: height and width of the result, at most the height and width of ``labels``.
    """
    for axis, target in zip((1, 2), size, strict=True):
        source = labels.shape[axis]
        centres = (2 * np.arange(target) + 1) * source // (2 * target)
        labels = labels.take(centres, axis=axis)
    return labels


class PixelSums(NamedTuple):
    """Sums over the pixels of a batch that have a class, each float32 ``[]``.

    Attributes:
        loss: sum of the cross-entropy, in nats.
        right: number of pixels whose most probable class is right.
        labelled: number of pixels that have a class.
    """

    loss: Float[Array, ""]
    right: Float[Array, ""]
    labelled: Float[Array, ""]


def pixel_sums(
    logits: Float[Array, "batch height width classes"], labels: UInt8[Array, "batch height width"]
) -> PixelSums:
    """Computes the cross-entropy of each pixel's class.

    Args:
        logits: logits ``[B, H, W, C]``.
        labels: class of each pixel, ``[B, H, W]``; pixels with
            :data:`experiments.data.classes.UNLABELLED` are not counted.
    """
    labelled = labels != UNLABELLED
    right = (logits.argmax(-1).astype(labels.dtype) == labels) & labelled
    return PixelSums(
        _cross_entropy(logits, labels),
        right.sum(dtype=jnp.float32),
        labelled.sum(dtype=jnp.float32),
    )


def _loss(
    model: Segmenter,
    config: LossConfig,
    params: Any,
    model_state: Any,
    batch: dict[str, jax.Array],
    key: jax.Array,
) -> LossSums:
    (logits, auxiliary), collections = model.apply(
        {"params": params, "batch_stats": model_state},
        normalize(batch["image"], model.config.backbone.input, batch["size"]),
        train=True,
        method="layers",
        mutable=["batch_stats"],
        rngs={"dropout": key},
    )
    labels = batch["label"]
    height, width = labels.shape[1:]
    if config.resolution == "labels":
        logits = resize(logits, (height, width))
    else:
        height, width = logits.shape[1:3]
        labels = reduce_labels(labels, (height, width))
    loss, right, labelled = pixel_sums(logits, labels)
    metrics = {"accuracy": right}
    if auxiliary is not None:
        metrics["auxiliary"] = _cross_entropy(resize(auxiliary, (height, width)), labels)
        loss = loss + jnp.float32(config.auxiliary_weight) * metrics["auxiliary"]
    count = labelled if config.average == "labelled" else jnp.float32(labels.size)
    return LossSums(loss, count, metrics, collections["batch_stats"])


def _cross_entropy(
    logits: Float[Array, "batch height width classes"], labels: UInt8[Array, "batch height width"]
) -> Float[Array, ""]:
    """The sum of the cross-entropy over all pixels that have a class, in nats."""
    labelled = labels != UNLABELLED
    classes = jnp.where(labelled, labels, 0).astype(jnp.int32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
    return jnp.where(labelled, losses, 0).sum()
