"""Command line: `python -m experiments.inpainting --help`."""

import sys
from pathlib import Path
from typing import Annotated

import tyro
from absl import logging

from experiments.data.crops import prepare
from experiments.data.debian import DEFAULT_CACHE
from experiments.engine.checkpoints import CheckpointError
from experiments.engine.config import ConfigError
from experiments.engine.loop import NonFiniteLossError
from experiments.inpainting.configs import DataConfig, InpaintingConfig, TrainingConfig
from experiments.inpainting.demo import demo_configs, run_demo
from experiments.inpainting.predict import InputError
from experiments.inpainting.predict import predict as predict_file
from experiments.inpainting.task import train_run
from experiments.models.unet import UNetConfig

DEFAULT_OUTPUT = Path("runs/demo")
DEFAULT_DATA = Path("data")


def demo(
    training: TrainingConfig,
    data: DataConfig,
    widths: tuple[int, ...] = UNetConfig().widths,
    output: Path = DEFAULT_OUTPUT,
    data_dir: Path = DEFAULT_DATA,
    photographs: Path = DEFAULT_CACHE,
) -> None:
    """Trains a U-Net without and one with CARAFE++, evaluates both, and draws what they fill in.

    Args:
        training: of both models.
        data: of both models.
        widths: channels of the levels of both models, from the full resolution downwards.
        output: folder of the results; a started run in it is continued.
        data_dir: folder of the prepared data sets.
        photographs: folder that `python -m experiments.data.debian` filled, for that source.
    """
    run_demo(output, data_dir, photographs, demo_configs(training, data, widths))


def train(
    output: Path,
    config: InpaintingConfig,
    data_dir: Path = DEFAULT_DATA,
    photographs: Path = DEFAULT_CACHE,
) -> None:
    """Trains one model.

    Args:
        output: folder of the run; a started run in it is continued.
        config: of the run.
        data_dir: folder of the prepared data sets.
        photographs: folder that `python -m experiments.data.debian` filled.
    """
    train_run(config, output, prepare(config.data.source, data_dir, photographs))


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


def main() -> None:
    """Runs a subcommand; what the user can mend is told in a line, with exit code 2."""
    logging.set_verbosity(logging.ERROR)  # tfds and grain recommend other packages
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"demo": demo, "train": train, "predict": predict},
            prog="python -m experiments.inpainting",
        )
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except (InputError, CheckpointError, ConfigError, NonFiniteLossError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
