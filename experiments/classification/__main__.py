"""Command line: `python -m experiments.classification --help`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from experiments.classification.configs import ClassificationConfig
from experiments.classification.library import Library
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
from experiments.engine.config import check
from experiments.engine.conversion import FROM, check_left_out, given, requested_export
from experiments.engine.distributed_config import Distributed
from experiments.engine.folders import DataFolders
from experiments.engine.presets import subcommands
from experiments.engine.settings import CheckpointChoice, EvaluationConfig
from experiments.kernel_studies.commands import MakeStudiedNetwork, study_commands

EVALUATION = EvaluationConfig(batch_size=64)

if TYPE_CHECKING:
    from experiments.engine.tables.spec import TaskSpec

    OptionalConfig = ClassificationConfig | None
else:
    OptionalConfig = subcommands(CATALOGUE) | None


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
    output: Path = FOLDERS.runs / CATALOGUE.task / "predictions",
    checkpoint: CheckpointChoice = "newest",
    maps: bool = False,
) -> None:
    """Prints the five most probable classes of each image.

    Args:
        images: files of images, in any format that Pillow reads and of any size.
        run: folder of a trained run.
        output: folder for the figures of maps; used with maps.
        checkpoint: the newest checkpoint, or the one with the highest top-1 accuracy.
        maps: also draw from which pixels features are reassembled: NAME-maps-down.png in a network
            that downsamples with CARAFE++ (Fig. 9 b).
    """
    from experiments.classification.predict import print_predictions

    print_predictions(run, images, checkpoint, output if maps else None)


def convert(
    config: OptionalConfig = None,
    weights: Path | None = None,
    library: Annotated[Library | None, FROM] = None,
    to: Literal["torchvision"] | None = None,
    run: Path | None = None,
    output: Path | None = None,
    keep: tuple[str, ...] = (),
    checkpoint: CheckpointChoice | None = None,
    runs: Path | None = None,
) -> None:
    """Converts a torchvision or timm ResNet to a run, or a run to such a ResNet.

    `convert PRESET --weights FILE` makes a run, to evaluate, predict with or train further.
    `convert --to torchvision --run RUN --output FILE` writes the network of a run.

    Args:
        config: config of the new run; an ImageNet preset.
        weights: file of a state_dict from safetensors or torch.save, with any suffix; PyTorch need
            not be installed.
        library: library that wrote the weights, which the run records. Both have the same names;
            the default is torchvision.
        to: library for which the network of a run is written.
        run: folder of the run whose network is written.
        output: folder of the new run, or the new file. The default is the folder of the preset's
            run, where detection looks for backbones; an output is required for a file, and if a
            field other than the seed is changed.
        keep: parts of the network that the file lacks; they keep their initial values.
        checkpoint: checkpoint that is written: the newest, which is the default, or the one with
            the highest top-1 accuracy.
        runs: folder of all runs, where the new run is if no output is given. The default is runs.
    """
    export = requested_export(weights is not None, library, to, run)
    if export is None:
        check_left_out("--weights", checkpoint=checkpoint)
        file = given("weights", weights, "a file")
        config = given("config", config, "a preset for --weights, such as table2-resnet50")
        _make_run(config, file, library or "torchvision", output, keep, runs or FOLDERS.runs)
    else:
        check_left_out("--to", keep=keep, runs=runs)
        check(config is None, "config", "left out with --to", "a preset")
        _write_weights(export.run, given("output", output, "a file for --to"), checkpoint)


def _make_run(
    config: ClassificationConfig,
    weights: Path,
    library: Library,
    output: Path | None,
    keep: tuple[str, ...],
    runs: Path,
) -> None:
    from experiments.classification import convert as conversion
    from experiments.engine.runs import run_folder
    from experiments.engine.text import printable

    output = output or run_folder(config, CATALOGUE.presets, runs)
    unused = conversion.convert(config, weights, output, keep, library)
    print(printable(output), *(f"not used: {each}" for each in unused), sep="\n")


def _write_weights(run: Path, output: Path, checkpoint: CheckpointChoice | None) -> None:
    from experiments.classification import convert as conversion
    from experiments.engine.text import printable

    conversion.export(run, output, checkpoint or "newest")
    print(printable(output))


def load_studied_network() -> MakeStudiedNetwork:
    """Imports and returns the function that makes the network and images of a study of kernels."""
    from experiments.classification.kernel_studies import studied_network

    return studied_network


def main() -> None:
    """Runs a subcommand."""
    commands: Commands = {
        **task_commands(CATALOGUE, load_spec),
        "evaluate": evaluate,
        "predict": predict,
        **study_commands(CATALOGUE, load_spec, load_studied_network, EVALUATION),
        "convert": convert,
    }
    run_command(CATALOGUE.task, commands)


if __name__ == "__main__":
    main()
