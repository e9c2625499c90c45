"""The folder of a run: where it lies, and how its config and a state are read back."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.engine import config as configs
from experiments.engine.checkpoints import CHECKPOINTS, CheckpointError, restore_state
from experiments.engine.claim import CONFIG, is_run
from experiments.engine.distributed import is_primary
from experiments.engine.finite import bad_values
from experiments.engine.presets import Preset
from experiments.engine.settings import CheckpointChoice, RunConfig
from experiments.engine.step import OPTIMIZER, first_carry
from experiments.engine.text import listed


class LoadedRun[Config](NamedTuple):
    """A run, as prediction and evaluation need it.

    Attributes:
        config: of the run.
        state: of its task.
        step: after which the state was saved.
    """

    config: Config
    state: Any
    step: int


@dataclasses.dataclass(frozen=True)
class RunType[Config: RunConfig]:
    """What the runs of a task have in common.

    Attributes:
        config_type: of their configs.
        initial_state: makes the state of the task from a config.
        best: the metric by which the best checkpoint is known, larger is better.
    """

    config_type: type[Config]
    initial_state: Callable[[Config], Any]
    best: str

    def load_config(self, folder: Path) -> Config:
        """Reads the config of a run.

        Args:
            folder: of the run.

        Raises:
            CheckpointError: there is no run of this task in ``folder``.
        """
        if not is_run(folder):
            raise CheckpointError(f"{folder} holds no run: {CONFIG} is missing")
        try:
            return configs.load(self.config_type, folder / CONFIG)
        except configs.ConfigError as error:
            # The config of every task has a default.
            task = self.config_type.task  # type: ignore[misc]
            raise CheckpointError(f"{folder} is no run of the {task} task: {error}") from error

    def load(self, folder: Path, checkpoint: CheckpointChoice = "newest") -> LoadedRun[Config]:
        """Reads config and state of a run; newer checkpoints that are damaged are reported.

        Args:
            folder: of the run.
            checkpoint: the newest, or the one with the highest :attr:`best`, if any was evaluated.

        Raises:
            CheckpointError: there is no run of this task in ``folder``, it cannot be read, or the
                networks in it hold values that are NaN, infinite or beyond 1e19, or negative
                variances.
        """
        config = self.load_config(folder)
        # Traced alone, for the shapes.
        carry = jax.eval_shape(lambda: first_carry(self.initial_state(config), 0))
        best = self.best if checkpoint == "best" else None
        restored = restore_state(folder / CHECKPOINTS, carry, best)
        if is_primary():
            for message in restored.damaged:
                used = f"the checkpoint of step {restored.step} is used"
                print(f"{message}; {used}", file=sys.stderr)
        _check_values(folder / CHECKPOINTS / str(restored.step), restored.state.state)
        return LoadedRun(config, restored.state.state, restored.step)


def _check_values(checkpoint: Path, state: Any) -> None:
    """Refuses networks that can compute nothing; the optimiser's values serve training alone."""
    faults = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        parts = name.split("/")
        if OPTIMIZER in parts or not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        if fault := bad_values(leaf, variance=parts[-1] == "var"):  # Flax names it so
            faults.append(f"{name}: {fault}")
    if faults:
        raise CheckpointError(
            f"the checkpoint {checkpoint} holds values that no network computes with, in "
            f"{len(faults)} of its arrays: {listed(faults)}"
        )


def preset_of[Config: RunConfig](
    config: Config, presets: Sequence[Preset[Config]]
) -> Preset[Config] | None:
    """The first preset that differs from a config in the seed at most; None if there is none."""
    seed = config.training.seed
    return next((each for each in presets if each.config.with_training(seed=seed) == config), None)


def run_folder[Config: RunConfig](
    config: Config, presets: Sequence[Preset[Config]], runs: Path
) -> Path:
    """The folder of a preset's run, ``RUNS/TASK/PRESET-seedN``; equal configs share it.

    Args:
        config: equal to that of a preset but for the seed.
        presets: all of the task; the first that equals the config gives the name.
        runs: folder of all runs.

    Raises:
        ConfigError: no preset has this config.
    """
    preset = preset_of(config, presets)
    if preset is None:
        raise configs.ConfigError(
            "output must be given for a config that is no preset's, got None: without it a run "
            "lies in the folder of its preset"
        )
    return runs / config.task / f"{preset.name}-seed{config.training.seed}"
