"""Configs of optimisers and learning rates."""

import dataclasses
import math
from typing import Literal

from experiments.engine.config import check, check_at_least


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Length of the training, and its learning rate: a linear warm-up, then a decay.

    Attributes:
        length: length of the training, in ``unit``.
        unit: unit of all lengths of the schedule: steps, or epochs (passes over the training set).
        warmup: length of the linear warm-up, in ``unit``; 0 for none.
        warmup_from: learning rate at the start of the warm-up; it is not scaled by the batch size.
        decay: decay of the learning rate after the warm-up. ``"constant"``: none. ``"step"``:
            multiplication by ``factor`` at each of ``milestones``. ``"cosine"``: half a period of a
            cosine, down to 0. ``"poly"``: multiplication of the part above ``lowest`` by
            ``(1 - progress) ** power``.
        milestones: milestones of the decay ``"step"``, in ``unit``, from the start of the training.
        factor: factor of the decay ``"step"``.
        power: exponent of the decay ``"poly"``.
        lowest: learning rate at the end of the decay ``"poly"``; it is not scaled by the batch
            size.
    """

    length: float = 1000
    unit: Literal["step", "epoch"] = "step"
    warmup: float = 0
    warmup_from: float = 0.0
    decay: Literal["constant", "step", "cosine", "poly"] = "cosine"
    milestones: tuple[float, ...] = ()
    factor: float = 0.1
    power: float = 0.9
    lowest: float = 0.0

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for values that do not define a schedule."""
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
        check_at_least(self, warmup_from=0, factor=0, power=0, lowest=0)
        unused = self.lowest == 0 or self.decay == "poly"
        check(unused, "lowest", "0 for every decay other than 'poly'", self.lowest)

    def steps(self, length: float, steps_per_epoch: int) -> int:
        """Converts a length of this schedule to steps, rounded; 1 epoch is ``steps_per_epoch``."""
        return round(length * (steps_per_epoch if self.unit == "epoch" else 1))


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser, and its peak learning rate.

    Attributes:
        name: ``"sgd"``: momentum, and weight decay that is added to the gradient. ``"adam"``:
            decoupled weight decay.
        learning_rate: peak learning rate, for batches of ``reference_batch_size``.
        reference_batch_size: batch size for the linear scaling rule of Goyal et al. (reference 11):
            the learning rate is multiplied by ``batch_size / reference_batch_size``; None does not
            scale it.
        momentum: momentum of SGD.
        nesterov: use Nesterov momentum in SGD.
        b1: decay rate of the first moment in Adam.
        b2: decay rate of the second moment in Adam.
        weight_decay: factor of the weight decay; 0 for none.
        decay_all: apply weight decay to all parameters, including biases and the scales of
            normalisation layers, instead of kernels only.
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
