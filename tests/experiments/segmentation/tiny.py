"""A UperNet and scenes that a CPU trains in seconds; also a program."""

import sys
from pathlib import Path

from experiments.data.composed.scenes_config import ScenesConfig
from experiments.engine.distributed import start
from experiments.engine.distributed_config import Distributed
from experiments.engine.folders import Folders
from experiments.engine.optimization_config import OptimizerConfig, ScheduleConfig
from experiments.engine.settings import Operation, TrainingConfig
from experiments.models.resnet_config import ResNetConfig
from experiments.segmentation.configs import SegmentationConfig
from experiments.segmentation.data.config import DataConfig
from experiments.segmentation.model.config import SegmenterConfig
from experiments.segmentation.task import train_run

# Every bucket has one shape, so less is compiled.
TINY = SegmentationConfig(
    model=SegmenterConfig(
        backbone=ResNetConfig(18, norm="sync_batch", width=2, stem="deep"),
        channels=4,
        fpn="carafe",
        auxiliary=True,
    ),
    data=DataConfig(
        "scenes",
        scenes=ScenesConfig("pypi", 64, 8, 6, smallest=24, largest=48, max_objects=2),
        shorter_sides=(40, 64),
        longer=64,
        aspects=(4 / 3,),
        crop_side=64,
        crop_shorter=64,
        test_shorter=64,
    ),
    training=TrainingConfig(
        batch_size=4,
        optimizer=OptimizerConfig(learning_rate=0.01),
        schedule=ScheduleConfig(length=6, decay="poly"),
    ),
    pretrained=False,
)


def train(folder, data_dir, cache, config=TINY, checkpoint_every=2):
    operation = Operation(log_every=1, checkpoint_every=checkpoint_every, keep_last=3)
    return train_run(config, folder, Folders(data_dir, cache), operation)


def main():
    """Trains as one of two processes with two devices each, or as the only process with four."""
    folder, data_dir, cache, process, port = sys.argv[1:]
    if port == "0":
        start(Distributed(cpu_devices=4))
    else:
        start(Distributed(False, f"127.0.0.1:{port}", 2, int(process), cpu_devices=2))
    train(Path(folder), Path(data_dir), Path(cache))


if __name__ == "__main__":
    main()
