"""Command line: `python -m experiments.inpainting --help`."""

from pathlib import Path
from typing import Annotated

import tyro

from experiments.data.crops import prepare
from experiments.data.debian import DEFAULT_CACHE
from experiments.engine.command_line import run_command
from experiments.engine.distributed import Distributed, primary_first, start
from experiments.engine.settings import Operation, TrainingConfig
from experiments.inpainting.configs import TRAINING, DataConfig, InpaintingConfig
from experiments.inpainting.demo import demo_configs, run_demo
from experiments.inpainting.predict import InputError
from experiments.inpainting.predict import predict as predict_file
from experiments.inpainting.task import train_run
from experiments.models.unet import UNetConfig

DEFAULT_OUTPUT = Path("runs/demo")
DEFAULT_DATA_DIR = Path("data")
DEFAULT_DATA = DataConfig()
DEFAULT_OPERATION = Operation(checkpoint_every=100)
ALONE = Distributed()


def demo(
    training: TrainingConfig = TRAINING,
    data: DataConfig = DEFAULT_DATA,
    widths: tuple[int, ...] = UNetConfig().widths,
    output: Path = DEFAULT_OUTPUT,
    data_dir: Path = DEFAULT_DATA_DIR,
    photographs: Path = DEFAULT_CACHE,
    operation: Operation = DEFAULT_OPERATION,
) -> None:
    """Trains a U-Net without and one with CARAFE++, evaluates both, and draws what they fill in.

    Args:
        training: of both models.
        data: of both models.
        widths: channels of the levels of both models, from the full resolution downwards.
        output: folder of the results; a started run in it is continued.
        data_dir: folder of the prepared data sets.
        photographs: folder that `python -m experiments.data.debian` filled, for that source.
        operation: of both runs.
    """
    run_demo(output, data_dir, photographs, demo_configs(training, data, widths), operation)


def train(
    output: Path,
    config: InpaintingConfig,
    data_dir: Path = DEFAULT_DATA_DIR,
    photographs: Path = DEFAULT_CACHE,
    operation: Operation = DEFAULT_OPERATION,
    distributed: Distributed = ALONE,
) -> None:
    """Trains one model.

    Args:
        output: folder of the run; a started run in it is continued.
        config: of the run.
        data_dir: folder of the prepared data sets.
        photographs: folder that `python -m experiments.data.debian` filled.
        operation: of the run.
        distributed: the other processes of the run, if any.
    """
    start(distributed)
    folder = primary_first(lambda: prepare(config.data.source, data_dir, photographs))
    train_run(config, output, folder, operation)


def predict(
    image: Annotated[Path, tyro.conf.Positional],
    mask: Path,
    run: Path = DEFAULT_OUTPUT / "carafe",
    output: Path | None = None,
) -> None:
    """Fills the holes of an image.

    Args:
        image: the image file; any size.
        mask: an image file of the same size, white (over 127 of 255) in the hole.
        run: folder of a trained run.
        output: the PNG to write; by default IMAGE-filled.png beside the image.
    """
    output = output or image.with_name(f"{image.stem}-filled.png")
    predict_file(run, image, mask, output)
    print(output)


if __name__ == "__main__":
    run_command("inpainting", {"demo": demo, "train": train, "predict": predict}, InputError)
