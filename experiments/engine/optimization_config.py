"""Configs of optimisers and learning rates."""

import dataclasses
import math
from typing import Literal

from experiments.engine.config import check, check_at_least


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Length of a training, and its learning rate: a linear warm-up, then a decay.

    Attributes:
        length: of the training, in ``unit``.
        unit: of every length here: steps, or epochs (passes over the training set).
        warmup: length of the linear warm-up; 0 for none.
        warmup_from: learning rate at its beginning; not scaled.
        decay: after the warm-up. ``"constant"``; ``"step"``: times ``factor`` at each of
            ``milestones``; ``"cosine"``: half a period, down to 0; ``"poly"``:
            ``(1 - progress) ** power``.
        milestones: of ``"step"``, counted from the start of the training.
        factor: of ``"step"``.
        power: of ``"poly"``.
    """

    length: float = 1000
    unit: Literal["step", "epoch"] = "step"
    warmup: float = 0
    warmup_from: float = 0.0
    decay: Literal["constant", "step", "cosine", "poly"] = "cosine"
    milestones: tuple[float, ...] = ()
    factor: float = 0.1
    power: float = 0.9

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for values that make no schedule."""
        check(self.length > 0, "length", "positive", self.length)
        inside = f"at least 0 and below the length, {self.length:g}"
        check(0 <= self.warmup < self.length, "warmup", inside, self.warmup)
        ordered = list(self.milestones) == sorted({*self.milestones})
        fits = ordered and all(self.warmup <= m < self.length for m in self.milestones)
        check(
            fits,
            "milestones",
            f"ascending, in {self.warmup}..{self.length} (warmup to length)",
            self.milestones,
        )
        check((self.decay == "step") == bool(self.milestones), "milestones",
              "given with decay 'step', and with no other", self.milestones)  # fmt: skip
        check_at_least(self, warmup_from=0, factor=0, power=0)

    def steps(self, length: float, steps_per_epoch: int) -> int:
        """A length of this schedule in steps, rounded; 1 epoch is ``steps_per_epoch``."""
        return round(length * (steps_per_epoch if self.unit == "epoch" else 1))


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser, and its highest learning rate.

    Attributes:
        name: ``"sgd"``: with momentum, weight decay added to the gradient. ``"adam"``: with
            decoupled weight decay, if any.
        learning_rate: the highest, for batches of ``reference_batch_size``.
        reference_batch_size: the linear scaling rule of Goyal et al. (reference 11): the rate is
            multiplied by ``batch_size / reference_batch_size``; None takes it as it is.
        momentum: of SGD.
        nesterov: of SGD.
        b1: Adam's decay of the first moment.
        b2: Adam's decay of the second moment.
        weight_decay: factor; 0 for none.
        decay_all: decays biases and the scales of norms too, and not the kernels alone.
    """

    name: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.1
    reference_batch_size: int | None = None
    momentum: float = 0.9
    nesterov: bool = False
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.0
    decay_all: bool = False

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for values out of range."""
        check(
            0 < self.learning_rate < math.inf,
            "learning_rate",
            "positive and finite",
            self.learning_rate,
        )
        for name in ("momentum", "b1", "b2"):
            check(0 <= getattr(self, name) < 1, name, "in [0, 1)", getattr(self, name))
        check_at_least(self, weight_decay=0)
        if self.reference_batch_size is not None:
            check_at_least(self, reference_batch_size=1)
