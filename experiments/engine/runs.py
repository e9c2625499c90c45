"""Reading a run's folder: its config, and a state it has saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.engine import config as configs
from experiments.engine.checkpoints import CHECKPOINTS, CheckpointError, restore_state
from experiments.engine.step import first_carry


class LoadedRun[Config](NamedTuple):
    """A run, as prediction and evaluation need it.

    Attributes:
        config: of the run.
        state: of its task.
        step: after which the state was saved.
        damaged: newer checkpoints that cannot be read, each with the reason.
    """

    config: Config
    state: Any
    step: int
    damaged: tuple[str, ...]


def load_run[Config](
    folder: Path,
    config_type: type[Config],
    initial_state: Callable[[Config], Any],
    task: str,
    best: str | None = None,
) -> LoadedRun[Config]:
    """Reads config and state of a run.

    Args:
        folder: of the run.
        config_type: of the task's configs.
        initial_state: makes the task's state; traced alone, for its shapes.
        task: its name, for messages.
        best: takes the checkpoint with the highest metric of this name, if any was evaluated, in
            place of the newest.

    Raises:
        CheckpointError: there is no run of this task in ``folder``, or it cannot be read.
    """
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(f"{folder} holds no run: {path.name} is missing")
    try:
        config = configs.load(config_type, path)
    except configs.ConfigError as error:
        raise CheckpointError(f"{folder} is no run of the {task} task: {error}") from error
    carry = jax.eval_shape(lambda: first_carry(initial_state(config), 0))
    restored = restore_state(folder / CHECKPOINTS, carry, best)
    return LoadedRun(config, restored.state.state, restored.step, restored.damaged)
