"""The folder of a run: its path, and how its config and a state are read."""

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
from experiments.engine.text import listed, printable


class LoadedRun[Config](NamedTuple):
    """A run that was read for prediction or evaluation.

    Attributes:
        config: config of the run.
        state: state of the run's task.
        step: number of the last step before the state was saved.
    """

    config: Config
    state: Any
    step: int


@dataclasses.dataclass(frozen=True)
class RunType[Config: RunConfig]:
    """The properties that all runs of a task share.

    Attributes:
        config_type: class of the configs of the runs.
        initial_state: function that makes the initial state of the task from a config.
        best: name of the metric that selects the best checkpoint; larger is better.
    """

    config_type: type[Config]
    initial_state: Callable[[Config], Any]
    best: str

    def load_config(self, folder: Path) -> Config:
        """Reads the config of a run.

        Args:
            folder: folder of the run.

        Raises:
            CheckpointError: ``folder`` holds no run of this task.
        """
        if not is_run(folder):
            raise CheckpointError(f"{folder} holds no run: {CONFIG} is missing")
        try:
            return configs.load(self.config_type, folder / CONFIG)
        except configs.ConfigError as error:
            # The config class of every task has a default for this field.
            task = self.config_type.task  # type: ignore[misc]
            raise CheckpointError(f"{folder} is no run of the {task} task: {error}") from error

    def load(self, folder: Path, checkpoint: CheckpointChoice = "newest") -> LoadedRun[Config]:
        """Reads config and state of a run; damaged newer checkpoints are reported.

        Args:
            folder: folder of the run.
            checkpoint: choice of the checkpoint: the newest, or the evaluated one with the highest
                :attr:`best`, if there is one.

        Raises:
            CheckpointError: ``folder`` holds no run of this task; the run cannot be read; or its
                networks have values that are NaN, infinite or beyond 1e19, or negative variances.
        """
        config = self.load_config(folder)
        # Only traced, for its shapes.
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
    """Rejects unusable values in networks; values of the optimiser matter only for training."""
    faults = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        parts = name.split("/")
        if OPTIMIZER in parts or not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        if fault := bad_values(leaf, variance=parts[-1] == "var"):  # the name that Flax uses
            faults.append(f"{name}: {fault}")
    if faults:
        raise CheckpointError(
            f"the checkpoint {checkpoint} holds unusable values in "
            f"{len(faults)} of its arrays: {listed(faults)}"
        )


def preset_of[Config: RunConfig](
    config: Config, presets: Sequence[Preset[Config]]
) -> Preset[Config] | None:
    """Returns the first preset that equals a config except for the seed; None if there is none."""
    seed = config.training.seed
    return next((each for each in presets if each.config.with_training(seed=seed) == config), None)


def run_folder[Config: RunConfig](
    config: Config, presets: Sequence[Preset[Config]], runs: Path
) -> Path:
    """Returns the folder of a preset's run, ``RUNS/TASK/PRESET-seedN``.

    Presets with equal configs share the folder of the first of them.

    Args:
        config: config that equals the config of a preset except for the seed.
        presets: all presets of the task.
        runs: folder of all runs.

    Raises:
        ConfigError: no preset has this config.
    """
    preset = preset_of(config, presets)
    if preset is None:
        raise configs.ConfigError(
            "output must be given for a config that is not a preset's, got None: the default "
            "output is named after the preset"
        )
    return runs / config.task / f"{preset.name}-seed{config.training.seed}"


def names_of(runs: Sequence[Path]) -> list[str]:
    """Different names of runs: the names of the folders, or their paths if two names are equal.

    Args:
        runs: folders of the runs.

    Raises:
        ConfigError: ``runs`` contains a run twice.
    """
    different = len({run.resolve() for run in runs}) == len(runs)
    configs.check(different, "runs", "all different", [str(run) for run in runs])
    names = [run.resolve().name for run in runs]
    shown = names if len(set(names)) == len(names) else [str(run) for run in runs]
    return [printable(name) for name in shown]
