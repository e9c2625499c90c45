"""The training loop: one for every task."""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np

from experiments.engine import config as configs
from experiments.engine.checkpoints import Checkpoints
from experiments.engine.metrics import MetricsLog
from experiments.engine.parallel import data_parallel
from experiments.engine.progress import TrainingProgress

_LOG_EVERY = 10


class NonFiniteLossError(FloatingPointError):
    """The loss became NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long to train, and how often to save."""

    steps: int
    checkpoint_every: int


def train(
    folder: Path,
    config: Any,
    schedule: Schedule,
    state: Any,
    step: Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]],
    data: grain.DatasetIterator,
) -> Any:
    """Trains until ``schedule.steps``, from the newest checkpoint in ``folder`` if there is one.

    The folder then holds ``config.json``, ``metrics.jsonl`` and ``checkpoints/``. Killed at any
    moment and started again, it goes on with the same batches and gives the same numbers.

    Args:
        folder: of the run.
        config: of the run; a frozen dataclass. It must equal the one in the folder.
        schedule: number of steps in all, and between checkpoints.
        state: initial state, a pytree of arrays.
        step: maps a state and one device's share of a batch to the next state and to metrics,
            among them ``loss``, already reduced over the devices.
        data: endless iterator of batches.

    Returns:
        The final state.

    Raises:
        ConfigError: the folder holds a run with another config.
        CheckpointError: its newest checkpoint cannot be read.
        NonFiniteLossError: the loss, or the state that would be saved, is not finite; every
            checkpoint is from before.
    """
    _claim(folder, config)
    parallel_step = data_parallel(step)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(closing(Checkpoints(folder / "checkpoints")))
        start, state = checkpoints.restore(state, data)
        log = stack.enter_context(closing(MetricsLog(folder / "metrics.jsonl", resume_at=start)))
        progress = stack.enter_context(TrainingProgress(folder.name, start, schedule.steps))
        for number in range(start + 1, schedule.steps + 1):
            state, metrics = parallel_step(state, next(data))
            saves = number % schedule.checkpoint_every == 0 or number == schedule.steps
            if saves or number % _LOG_EVERY == 0 or number == 1:
                values = {name: float(value) for name, value in metrics.items()}
                if not math.isfinite(values["loss"]):
                    raise NonFiniteLossError(f"the loss is {values['loss']} at step {number}")
                log.write(number, values)
                progress.update(number, values["loss"])
            if saves:
                _check_finite(state, number)
                checkpoints.save(number, state, data)
    return state


def _check_finite(state: Any, number: int) -> None:
    # The loss is from before the update: a finite one can come with a gradient that is not.
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state))):
        raise NonFiniteLossError(f"the parameters or the optimiser are not finite at step {number}")


def _claim(folder: Path, config: Any) -> None:
    path = folder / "config.json"
    if path.exists():
        if changed := configs.differences(configs.load(type(config), path), config):
            raise configs.ConfigError(
                f"{folder} holds a run with another config ({'; '.join(changed)}): "
                "name another folder, or remove this one"
            )
    else:
        configs.save(config, path)
