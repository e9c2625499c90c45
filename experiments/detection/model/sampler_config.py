"""How many anchors and proposals are sampled in training, and which of them are positive."""

import dataclasses

from experiments.engine.config import check, check_at_least


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
    """How many examples of an image are sampled, and which examples are positive and negative.

    Attributes:
        count: number of sampled examples.
        positives: largest fraction of positive examples in a sample.
        positive_iou: an example with at least this IoU with an object is positive.
        negative_iou: an example with less than this IoU with every object is negative.
        best_for_each: whether the examples with the largest IoU with an object are positive,
            even if that IoU is low.
    """

    count: int
    positives: float
    positive_iou: float
    negative_iou: float
    best_for_each: bool

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a field out of range."""
        check_at_least(self, count=1)
        check(0 < self.positives <= 1, "positives", "in (0, 1]", self.positives)
        check(0 < self.positive_iou <= 1, "positive_iou", "in (0, 1]", self.positive_iou)
        expected = f"in [0, positive_iou = {self.positive_iou}]"
        check(0 <= self.negative_iou <= self.positive_iou, "negative_iou", expected,
              self.negative_iou)  # fmt: skip
        one = f"high enough for one of {self.count} examples"
        check(self.max_positives >= 1, "positives", one, self.positives)

    @property
    def max_positives(self) -> int:
        """Largest number of positive examples in a sample."""
        return int(self.count * self.positives)


ANCHORS = SamplerConfig(256, 0.5, 0.7, 0.3, best_for_each=True)
PROPOSALS = SamplerConfig(512, 0.25, 0.5, 0.5, best_for_each=False)
