"""A classifier of digits that a CPU trains in seconds; it is also a program."""

import sys
from pathlib import Path

from experiments.classification.configs import ClassificationConfig
from experiments.classification.data_config import DataConfig
from experiments.classification.task import train_run
from experiments.engine.distributed import start
from experiments.engine.distributed_config import Distributed
from experiments.engine.folders import Folders
from experiments.engine.optimization_config import OptimizerConfig, ScheduleConfig
from experiments.engine.settings import Operation, TrainingConfig
from experiments.models.resnet_config import ResNetConfig

TINY = ClassificationConfig(
    model=ResNetConfig(18, "carafe", norm="sync_batch", width=8),
    data=DataConfig("digits", 32, 32, "pad_crop", flip=False),
    training=TrainingConfig(
        batch_size=32,
        optimizer=OptimizerConfig(learning_rate=0.01),
        schedule=ScheduleConfig(length=8, decay="constant"),
    ),
)


def train(folder, data_dir, config=TINY, **operation):
    return train_run(config, folder, Folders(data_dir), Operation(log_every=1, **operation))


def main():
    """Trains the classifier on several devices, as one of several processes."""
    folder, data_dir, devices, process, processes, port = sys.argv[1:]
    alone = processes == "1"
    start(
        Distributed(
            coordinator=None if alone else f"127.0.0.1:{port}",
            processes=None if alone else int(processes),
            process=None if alone else int(process),
            cpu_devices=int(devices),
        )
    )
    train(Path(folder), Path(data_dir))


if __name__ == "__main__":
    main()
