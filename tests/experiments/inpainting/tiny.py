"""A generator and a discriminator that a CPU trains in seconds; also a program, to be killed."""

import sys
from pathlib import Path

from experiments.engine.distributed import start
from experiments.engine.distributed_config import Distributed
from experiments.engine.folders import Folders
from experiments.engine.optimization_config import OptimizerConfig, ScheduleConfig
from experiments.engine.settings import Operation, TrainingConfig
from experiments.inpainting.configs import (
    AdversarialConfig,
    DataConfig,
    InpaintingConfig,
    ReconstructionConfig,
)
from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.inpainting.model.patchgan_config import PatchGANConfig
from experiments.inpainting.task import train_run

TINY = InpaintingConfig(
    model=GeneratorConfig(
        convolution="partial",
        downsampler="carafe",
        upsampler="carafe",
        width=4,
        levels=1,
        norm="sync_batch",
    ),
    data=DataConfig(crop_side=16),
    reconstruction=ReconstructionConfig(hole=2.0, valid=0.5),
    adversarial=AdversarialConfig(weight=0.1, discriminator=PatchGANConfig(width=4, layers=2)),
    ema_decay=0.9,
    training=TrainingConfig(
        batch_size=8,
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-2, b1=0.5, b2=0.9),
        schedule=ScheduleConfig(length=20, decay="constant"),
    ),
)


def train(folder, data_dir, config=TINY, checkpoint_every=10):
    operation = Operation(log_every=1, checkpoint_every=checkpoint_every)
    return train_run(config, folder, Folders(data_dir), operation)


def main():
    """Trains both networks, with a checkpoint after every step."""
    folder, data_dir = map(Path, sys.argv[1:])
    start(Distributed(cpu_devices=4))
    train(folder, data_dir, checkpoint_every=1)


if __name__ == "__main__":
    main()
