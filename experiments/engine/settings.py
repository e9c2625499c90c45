"""The settings of a run that are the same for every task."""

import dataclasses
from typing import Any, Literal, Self

from experiments.engine.config import check, check_at_least
from experiments.engine.optimization_config import OptimizerConfig, ScheduleConfig

Dtype = Literal["float32", "bfloat16"]
# Selects a checkpoint of a run.
CheckpointChoice = Literal["newest", "best"]


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained.

    Attributes:
        batch_size: number of examples in a step, over all processes and devices.
        accumulation: number of equal parts into which each device divides its share of a batch; it
            processes them in turn, to save memory.
        seed: seed of the initial parameters, the order of the data, and their augmentation.
        workers: number of processes that prepare data for each training process; 0 prepares data in
            threads.
        optimizer: optimiser and learning rate.
        schedule: length of the training, and learning rate over time.
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
        # Keys of JAX would drop higher bits.
        check(self.seed < 2**32, "seed", f"below {2**32}", self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings that the config of a run has in every task.

    Attributes:
        training: how the model is trained.
        dtype: dtype of the computation; parameters, statistics and sums are always float32.
        task: name of the task's package in ``experiments``; set by the config class of each task.
    """

    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    dtype: Dtype = "float32"
    task: str

    def with_training(self, **changes: Any) -> Self:
        """Returns this config with changed fields of ``training``."""
        return dataclasses.replace(self, training=dataclasses.replace(self.training, **changes))

    def with_learning_rate(self, rate: float) -> Self:
        """Returns this config with another learning rate."""
        optimizer = dataclasses.replace(self.training.optimizer, learning_rate=rate)
        return self.with_training(optimizer=optimizer)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How a run is evaluated, by a command or while it is trained.

    Attributes:
        checkpoint: checkpoint that a command reads: the newest, or the one with the best
            evaluation.
        batch_size: number of images evaluated at a time, over all processes and devices.
        workers: number of processes that prepare data for each evaluating process; 0 prepares data
            in threads.
        max_unreadable_records: the largest allowed number of unreadable images.
    """

    checkpoint: CheckpointChoice = "newest"
    batch_size: int = 8
    workers: int = 0
    max_unreadable_records: int = 100

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for values out of range."""
        check_at_least(self, batch_size=1, workers=0, max_unreadable_records=0)


@dataclasses.dataclass(frozen=True)
class Operation:
    """When to save, evaluate, log and stop; a resumed run may change it without other results.

    Attributes:
        checkpoint_every: number of steps between checkpoints.
        keep_last: number of the newest checkpoints that are kept.
        keep_best: number of checkpoints with the best evaluations that are also kept.
        evaluate_every: number of steps between evaluations, each with a checkpoint; 0 evaluates
            only at the end.
        log_every: number of steps between lines of the logs.
        max_skipped_steps: the largest allowed number of steps in the run that are skipped because
            they are not finite; one more stops the run.
        max_unreadable_records: the largest allowed number of times in the run that an unreadable
            record is replaced by another; one more stops the run. A bad record counts once in each
            epoch.
        profile_at: number of the first step traced with ``jax.profiler``; 0 for no trace.
        profile_steps: number of steps that are traced.
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
    """Returns the evaluation config of a run during training, with the batch size of the training.

    Args:
        training: training config of the run.
        operation: operation of the run; its limit of unreadable records applies to each evaluation.
    """
    return EvaluationConfig(
        batch_size=training.batch_size,
        workers=training.workers,
        max_unreadable_records=operation.max_unreadable_records,
    )
