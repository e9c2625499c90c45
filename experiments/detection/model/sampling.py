"""Samples anchors and proposals for training, and matches them with objects.

It follows detectron2 and mmdet 2, with two differences. Samples have a fixed size, and a mask of
the entries that are valid. An example within a crowd is not a negative example, whereas it is
background in detectron2 and mmdet 2.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from experiments.detection.model.boxes import pairwise_coverage, pairwise_iou
from experiments.detection.model.sampler_config import SamplerConfig

# A box with a larger fraction of its area within a crowd is not background: it may show one of the
# crowd's objects.
_CROWD_COVERAGE = 0.7
# Relative tolerance of equal overlaps: XLA may round the same overlap differently, because it fuses
# multiplications with additions.
_ROUNDING = 1e-6


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Objects:
    """The objects in an image, padded.

    Attributes:
        boxes: boxes of the objects, ``[N, 4]``.
        labels: labels of the objects, from 0, or -1 for padding, ``[N]``.
        crowd: True for crowds, which are regions with many objects annotated together, ``[N]``.
    """

    boxes: Float[Array, "objects 4"]
    labels: Int[Array, " objects"]
    crowd: Bool[Array, " objects"]

    @property
    def single(self) -> Bool[Array, " objects"]:
        """Which entries are single objects, neither a crowd nor padding."""
        return (self.labels >= 0) & ~self.crowd


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sample:
    """Sampled examples of an image, positive examples first.

    Attributes:
        index: indices of the examples, ``[S]``.
        matched: index of the object with which each example has the largest IoU, ``[S]``.
        positive: which samples are positive, ``[S]``.
        valid: false for padding, ``[S]``.
    """

    index: Int[Array, " samples"]
    matched: Int[Array, " samples"]
    positive: Bool[Array, " samples"]
    valid: Bool[Array, " samples"]


def sample(
    key: PRNGKeyArray,
    boxes: Float[Array, "examples 4"],
    valid: Bool[Array, " examples"],
    objects: Objects,
    config: SamplerConfig,
) -> Sample:
    """Draws at most ``max_positives`` positive examples, and fills up with negative examples.

    Args:
        key: random key.
        boxes: anchors or proposals, ``[E, 4]``.
        valid: which examples can be drawn, ``[E]``.
        objects: objects in the image.
        config: numbers of examples, and the IoU of positive and negative examples.

    Returns:
        A sample of ``config.count`` entries. All are valid unless there are too few examples.
    """
    overlap = jnp.where(objects.single, pairwise_iou(boxes, objects.boxes), -1.0)  # [E, N]
    overlap = jnp.where(valid[:, None], overlap, -1.0)
    best, matched = overlap.max(axis=1), overlap.argmax(axis=1)
    positive = best >= config.positive_iou
    if config.best_for_each:
        # An object that overlaps no example has no best example.
        highest = overlap.max(axis=0, keepdims=True)  # [1, N]
        ties = overlap >= highest * (1 - _ROUNDING)
        positive |= (ties & (highest > 0)).any(axis=1)
    crowd = objects.crowd & (objects.labels >= 0)
    covered = jnp.where(crowd, pairwise_coverage(boxes, objects.boxes), 0.0).max(axis=1)
    negative = ~positive & (best < config.negative_iou) & (covered <= _CROWD_COVERAGE)

    positive_key, negative_key = jax.random.split(key)
    positives, has_positive = _draw(positive_key, positive & valid, config.max_positives)
    negatives, has_negative = _draw(negative_key, negative & valid, config.count)
    number = has_positive.sum()
    entry = jnp.arange(config.count)
    is_positive = entry < number
    in_positives = jnp.minimum(entry, positives.size - 1)
    in_negatives = jnp.minimum(jnp.maximum(entry - number, 0), negatives.size - 1)
    index = jnp.where(is_positive, positives[in_positives], negatives[in_negatives])
    is_negative = ~is_positive & has_negative[in_negatives] & (entry - number < negatives.size)
    return Sample(index, matched[index], is_positive, is_positive | is_negative)


def _draw(
    key: PRNGKeyArray, candidate: Bool[Array, " examples"], count: int
) -> tuple[Int[Array, " drawn"], Bool[Array, " drawn"]]:
    """At most ``count`` random indices, candidates first, and whether each is a candidate."""
    priority = jnp.where(candidate, jax.random.uniform(key, candidate.shape), -1.0)
    drawn, index = jax.lax.top_k(priority, min(count, candidate.size))
    return index, drawn >= 0
