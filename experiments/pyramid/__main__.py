"""Command line: `python -m experiments.pyramid --help`.

A small study that compares upsamplers with many seeds on a CPU. A feature pyramid segments composed
scenes. The maps of its backbone, a MobileNetV2 that was trained on ImageNet and stays frozen, are
computed once, so that a run takes a minute or two.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from experiments.data.composed.scenes_config import ScenesConfig
from experiments.engine.command_line import run_command
from experiments.engine.commands import (
    DATA,
    SINGLE_PROCESS,
    WITHOUT_PREFIX,
    Commands,
    task_commands,
)
from experiments.engine.distributed_config import Distributed
from experiments.engine.folders import DataFolders
from experiments.engine.settings import EvaluationConfig
from experiments.kernel_studies.commands import MakeStudiedNetwork, study_commands
from experiments.pyramid.configs import SCENES
from experiments.pyramid.presets import CATALOGUE

if TYPE_CHECKING:
    from experiments.engine.tables.spec import TaskSpec
    from experiments.pyramid.configs import PyramidConfig

EVALUATION = EvaluationConfig(batch_size=16)


def load_spec() -> "TaskSpec[PyramidConfig]":
    """Imports and returns the spec of the task."""
    from experiments.pyramid.spec import SPEC

    return SPEC


def features(
    scenes: ScenesConfig = SCENES, folders: Annotated[DataFolders, WITHOUT_PREFIX] = DATA
) -> None:
    """Computes the features of all scenes, unless they exist, and prints their folder.

    `train` and the tables do this too when they first need the features.

    Args:
        scenes: config of the scenes.
        folders: folders of data.
    """
    from experiments.engine.text import printable
    from experiments.pyramid.features import prepare_features

    print(printable(prepare_features(scenes, folders)))


def evaluate(
    run: Annotated[Path, tyro.conf.Positional],
    split: Literal["train", "validation"] = "validation",
    folders: Annotated[DataFolders, WITHOUT_PREFIX] = DATA,
    evaluation: Annotated[EvaluationConfig, WITHOUT_PREFIX] = EVALUATION,
    distributed: Distributed = SINGLE_PROCESS,
) -> None:
    """Prints mean IoU and pixel accuracy of a run, and the IoU of each class.

    Args:
        run: folder of the run.
        split: split whose scenes are evaluated.
        folders: folders of data.
        evaluation: settings of the evaluation.
        distributed: connection to the other processes, if there are any.
    """
    from experiments.engine.distributed import start
    from experiments.pyramid.evaluate import evaluate as evaluate_run

    start(distributed)
    evaluate_run(run, split, folders, evaluation)


def load_studied_network() -> MakeStudiedNetwork:
    """Imports and returns the function that makes the network and images of a study of kernels."""
    from experiments.pyramid.kernel_studies import studied_network

    return studied_network


def main() -> None:
    """Runs a subcommand."""
    commands: Commands = {
        **task_commands(CATALOGUE, load_spec),
        "features": features,
        "evaluate": evaluate,
        **study_commands(CATALOGUE, load_spec, load_studied_network, EVALUATION),
    }
    run_command(CATALOGUE.task, commands)


if __name__ == "__main__":
    main()
