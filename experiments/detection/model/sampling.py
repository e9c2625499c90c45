"""Which anchors and proposals a training step looks at, and what each has to be.

As in detectron2 and mmdet 2, but with fixed counts: a sample has a place for every example that
there may be, and says which places are taken. And an example that lies in a crowd is no negative
one; both of them take it for background.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from experiments.detection.model.boxes import pairwise_coverage, pairwise_iou
from experiments.detection.model.sampler_config import SamplerConfig

# What lies by more than this within a crowd is no background: it may well be one of the crowd.
_CROWD_COVERAGE = 0.7
# Overlaps that differ by a smaller share of them are equal: XLA may round the same overlap in two
# ways, as it fuses multiplications with additions.
_ROUNDING = 1e-6


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Objects:
    """What there is in an image, padded.

    Attributes:
        boxes: ``[N, 4]``.
        labels: ``[N]``, from 0; -1 is padding.
        crowd: ``[N]``, regions with many objects that are not told apart.
    """

    boxes: Float[Array, "objects 4"]
    labels: Int[Array, " objects"]
    crowd: Bool[Array, " objects"]

    @property
    def single(self) -> Bool[Array, " objects"]:
        """Which are single objects: those to be found."""
        return (self.labels >= 0) & ~self.crowd


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sample:
    """Sampled examples of an image, the positive ones first.

    Attributes:
        index: ``[S]``, of the examples.
        matched: ``[S]``, the object that each overlaps most.
        positive: ``[S]``, which are positive; they take the first places.
        valid: ``[S]``, which places are taken.
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
    """Draws examples: at most ``max_positives`` positive ones, and negative ones for the rest.

    Args:
        key: of the draw.
        boxes: ``[E, 4]``, anchors or proposals.
        valid: ``[E]``, which of them can be drawn.
        objects: of the image.
        config: how many are drawn, and which of them are positive and negative.

    Returns:
        Fewer than ``count`` are valid only where there are not enough to draw.
    """
    overlap = jnp.where(objects.single, pairwise_iou(boxes, objects.boxes), -1.0)  # [E, N]
    overlap = jnp.where(valid[:, None], overlap, -1.0)
    best, matched = overlap.max(axis=1), overlap.argmax(axis=1)
    positive = best >= config.positive_iou
    if config.best_for_each:
        # An object that overlaps no example at all has no best one.
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
    place = jnp.arange(config.count)
    is_positive = place < number
    of_positives = jnp.minimum(place, positives.size - 1)
    of_negatives = jnp.minimum(jnp.maximum(place - number, 0), negatives.size - 1)
    index = jnp.where(is_positive, positives[of_positives], negatives[of_negatives])
    is_negative = ~is_positive & has_negative[of_negatives] & (place - number < negatives.size)
    return Sample(index, matched[index], is_positive, is_positive | is_negative)


def _draw(
    key: PRNGKeyArray, candidate: Bool[Array, " examples"], count: int
) -> tuple[Int[Array, " drawn"], Bool[Array, " drawn"]]:
    """Indices of ``count`` random candidates, or fewer, and which of them are candidates."""
    priority = jnp.where(candidate, jax.random.uniform(key, candidate.shape), -1.0)
    drawn, index = jax.lax.top_k(priority, min(count, candidate.size))
    return index, drawn >= 0
