"""Command line: `python -m experiments.classification --help`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from experiments.classification.batches import open_data
from experiments.classification.configs import ClassificationConfig
from experiments.classification.convert import convert as convert_weights
from experiments.classification.predict import Guess
from experiments.classification.predict import predict as predict_files
from experiments.classification.spec import SPEC
from experiments.classification.task import RUNS, make_evaluator
from experiments.engine.command_line import run_command
from experiments.engine.commands import ALONE, BARE, DATA, FOLDERS, Commands, task_commands
from experiments.engine.config import check
from experiments.engine.distributed import Distributed, is_primary, primary_first, start
from experiments.engine.folders import DataFolders
from experiments.engine.parallel import check_batch_size
from experiments.engine.predictions import report
from experiments.engine.presets import subcommands
from experiments.engine.runs import run_folder
from experiments.engine.settings import CheckpointChoice, EvaluationConfig
from experiments.engine.tables import print_metrics
from experiments.engine.text import printable

EVALUATION = EvaluationConfig(batch_size=64)

if TYPE_CHECKING:
    Config = ClassificationConfig
else:
    Config = subcommands(SPEC.name, SPEC.presets, SPEC.metrics)


def evaluate(
    run: Annotated[Path, tyro.conf.Positional],
    folders: Annotated[DataFolders, BARE] = DATA,
    evaluation: Annotated[EvaluationConfig, BARE] = EVALUATION,
    distributed: Distributed = ALONE,
) -> None:
    """Prints top-1 and top-5 accuracy of a run on its validation images.

    Args:
        run: folder of the run.
        folders: where the data lie.
        evaluation: of which checkpoint, and how.
        distributed: the other processes, if any.
    """
    start(distributed)
    check_batch_size(evaluation.batch_size)
    loaded = RUNS.load(run, evaluation.checkpoint)
    data = primary_first(lambda: open_data(loaded.config.data, folders))
    state = {name: loaded.state[name] for name in ("params", "model_state")}
    evaluator = make_evaluator(loaded.config, data, evaluation)
    metrics = evaluator(state)
    if is_primary():
        print(f"step {loaded.step}, {len(data.validation)} images:")
        print_metrics(SPEC.metrics, metrics)


def predict(
    images: Annotated[tuple[Path, ...], tyro.conf.Positional],
    run: Path,
    checkpoint: CheckpointChoice = "newest",
) -> None:
    """Prints the five likeliest classes of each image.

    Args:
        images: files that Pillow reads, of any size.
        run: folder of a trained run.
        checkpoint: the newest, or the one with the highest top-1 accuracy so far.
    """
    check(bool(images), "images", "one or more", list(images))
    report(predict_files(run, images, checkpoint), _show)


def _show(image: Path, guesses: Sequence[Guess]) -> None:
    print(printable(image))
    for guess in guesses:
        print(f"  {guess.probability:7.2%}  {guess.name}")


def convert(
    config: Config,
    weights: Path,
    output: Path | None = None,
    keep: tuple[str, ...] = (),
    runs: Path = FOLDERS.runs,
) -> None:
    """Makes a run of a torchvision or timm ResNet, to evaluate, to predict with or to train on.

    Args:
        config: of the run; an ImageNet preset.
        weights: a state_dict as safetensors or torch.save wrote it, whatever the file's suffix;
            PyTorch must be installed for the latter.
        output: folder of the run, by default that of the preset, where detection looks for
            backbones; it must be given if more than the seed of the preset is changed.
        keep: parts of the network that the file lacks, which start from their initial values.
        runs: folder of all runs.
    """
    output = output or run_folder(config, SPEC.presets, runs, SPEC.name)
    convert_weights(config, weights, output, keep)
    print(printable(output))


def main() -> None:
    """Runs a subcommand."""
    commands: Commands = {
        **task_commands(SPEC),
        "evaluate": evaluate,
        "predict": predict,
        "convert": convert,
    }
    run_command(SPEC.name, commands)


if __name__ == "__main__":
    main()
