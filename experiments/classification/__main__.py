"""Command line: `python -m experiments.classification --help`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from experiments.classification.configs import ClassificationConfig
from experiments.classification.presets import CATALOGUE
from experiments.engine.command_line import run_command
from experiments.engine.commands import (
    DATA,
    FOLDERS,
    SINGLE_PROCESS,
    WITHOUT_PREFIX,
    Commands,
    task_commands,
)
from experiments.engine.distributed_config import Distributed
from experiments.engine.folders import DataFolders
from experiments.engine.presets import subcommands
from experiments.engine.settings import CheckpointChoice, EvaluationConfig

EVALUATION = EvaluationConfig(batch_size=64)

if TYPE_CHECKING:
    from experiments.engine.tables.spec import TaskSpec

    Config = ClassificationConfig
else:
    Config = subcommands(CATALOGUE)


def load_spec() -> "TaskSpec[ClassificationConfig]":
    """Imports and returns the spec of the task."""
    from experiments.classification.spec import SPEC

    return SPEC


def evaluate(
    run: Annotated[Path, tyro.conf.Positional],
    folders: Annotated[DataFolders, WITHOUT_PREFIX] = DATA,
    evaluation: Annotated[EvaluationConfig, WITHOUT_PREFIX] = EVALUATION,
    distributed: Distributed = SINGLE_PROCESS,
) -> None:
    """Prints top-1 and top-5 accuracy of a run on its validation images.

    Args:
        run: folder of the run.
        folders: folders of data.
        evaluation: settings of the evaluation.
        distributed: connection to the other processes, if there are any.
    """
    from experiments.classification.evaluate import evaluate as evaluate_run
    from experiments.engine.distributed import start

    start(distributed)
    evaluate_run(run, folders, evaluation)


def predict(
    images: Annotated[tuple[Path, ...], tyro.conf.Positional],
    run: Path,
    checkpoint: CheckpointChoice = "newest",
) -> None:
    """Prints the five most probable classes of each image.

    Args:
        images: files of images, in any format that Pillow reads and of any size.
        run: folder of a trained run.
        checkpoint: the newest checkpoint, or the one with the highest top-1 accuracy.
    """
    from experiments.classification.predict import print_predictions

    print_predictions(run, images, checkpoint)


def convert(
    config: Config,
    weights: Path,
    output: Path | None = None,
    keep: tuple[str, ...] = (),
    runs: Path = FOLDERS.runs,
) -> None:
    """Converts a torchvision or timm ResNet to a run, to evaluate, predict with or train further.

    Args:
        config: config of the run; an ImageNet preset.
        weights: file of a state_dict from safetensors or torch.save, with any suffix; PyTorch need
            not be installed.
        output: folder of the run. The default is the folder of the preset's run, where detection
            looks for backbones; an output is required if a field other than the seed is changed.
        keep: parts of the network that the file lacks; they keep their initial values.
        runs: folder of all runs.
    """
    from experiments.classification.convert import convert as convert_weights
    from experiments.engine.runs import run_folder
    from experiments.engine.text import printable

    output = output or run_folder(config, CATALOGUE.presets, runs)
    convert_weights(config, weights, output, keep)
    print(printable(output))


def main() -> None:
    """Runs a subcommand."""
    commands: Commands = {
        **task_commands(CATALOGUE, load_spec),
        "evaluate": evaluate,
        "predict": predict,
        "convert": convert,
    }
    run_command(CATALOGUE.task, commands)


if __name__ == "__main__":
    main()
