"""The settings of a run that are the same for every task."""

import dataclasses
from typing import Any, Literal, Self

from experiments.engine.config import check, check_at_least
from experiments.engine.optimization_config import OptimizerConfig, ScheduleConfig

Dtype = Literal["float32", "bfloat16"]
# Of the checkpoints of a run.
CheckpointChoice = Literal["newest", "best"]


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained.

    Attributes:
        batch_size: examples of a step, over all processes and devices.
        accumulation: parts in which each device works through its share, to save memory.
        seed: of the initial parameters, the order of the data, and their augmentation.
        workers: processes that prepare data, beside each process that trains; 0 for threads.
        optimizer: the optimiser and its learning rate.
        schedule: length of the training, and course of the learning rate.
    """

    batch_size: int = 256
    accumulation: int = 1
    seed: int = 0
    workers: int = 0
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for values out of range."""
        check_at_least(self, batch_size=1, accumulation=1, seed=0, workers=0)
        # JAX's keys would drop higher bits.
        check(self.seed < 2**32, "seed", f"below {2**32}", self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What the config of a run holds in every task.

    Attributes:
        training: how the model is trained.
        dtype: of the computation; parameters, statistics and sums are float32 in any case.
        task: the name of the task's package in ``experiments``; the config of each task has it as
            its default.
    """

    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    dtype: Dtype = "float32"
    task: str

    def with_training(self, **changes: Any) -> Self:
        """The same config with other values of fields of ``training``."""
        return dataclasses.replace(self, training=dataclasses.replace(self.training, **changes))


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How a run is evaluated, by a command or while it is trained.

    Attributes:
        checkpoint: that a command reads: the newest, or the one with the best evaluation so far.
        batch_size: images at a time, over all processes and devices.
        workers: processes that prepare data, beside each process that evaluates; 0 for threads.
        max_unreadable_records: the largest number of images that may be unreadable.
    """

    checkpoint: CheckpointChoice = "newest"
    batch_size: int = 8
    workers: int = 0
    max_unreadable_records: int = 100

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for what is out of range."""
        check_at_least(self, batch_size=1, workers=0, max_unreadable_records=0)


@dataclasses.dataclass(frozen=True)
class Operation:
    """When to save, evaluate, log and stop. A resumed run may change it: its numbers stay the same.

    Attributes:
        checkpoint_every: steps between checkpoints.
        keep_last: how many of the newest checkpoints stay.
        keep_best: how many of those with the best evaluation stay too.
        evaluate_every: steps between evaluations, each with a checkpoint; 0: at the end alone.
        log_every: steps between lines of the logs.
        max_skipped_steps: the largest number of steps in the run that may be skipped because they
            are not finite; one more stops it.
        max_unreadable_records: how often in the run a record may be unreadable and replaced by
            another; one more stops it. A bad record counts once an epoch.
        profile_at: the first step to trace with ``jax.profiler``; 0 for none.
        profile_steps: number of steps to trace.
    """

    checkpoint_every: int = 1000
    keep_last: int = 2
    keep_best: int = 1
    evaluate_every: int = 0
    log_every: int = 10
    max_skipped_steps: int = 0
    max_unreadable_records: int = 100
    profile_at: int = 0
    profile_steps: int = 5

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for values out of range."""
        check_at_least(
            self,
            checkpoint_every=1,
            keep_last=1,
            keep_best=0,
            evaluate_every=0,
            log_every=1,
            max_skipped_steps=0,
            max_unreadable_records=0,
            profile_at=0,
            profile_steps=1,
        )


def evaluation_in_training(training: TrainingConfig, operation: Operation) -> EvaluationConfig:
    """How a run is evaluated while it is trained: in batches of the size of the training's.

    Args:
        training: of the run.
        operation: of the run; its limit of unreadable records holds for each evaluation too.
    """
    return EvaluationConfig(
        batch_size=training.batch_size,
        workers=training.workers,
        max_unreadable_records=operation.max_unreadable_records,
    )
