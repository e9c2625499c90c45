"""A detector and scenes that a CPU trains in seconds; also a program."""

import dataclasses
import sys
from pathlib import Path

from experiments.data.composed.scenes_config import ScenesConfig
from experiments.detection.configs import DetectionConfig
from experiments.detection.data.config import DataConfig
from experiments.detection.model.anchors import AnchorConfig
from experiments.detection.model.config import (
    BoxHeadConfig,
    DetectorConfig,
    MaskHeadConfig,
    ProposalConfig,
)
from experiments.detection.model.sampler_config import ANCHORS, PROPOSALS
from experiments.detection.task import train_run
from experiments.engine.distributed import start
from experiments.engine.distributed_config import Distributed
from experiments.engine.folders import Folders
from experiments.engine.optimization_config import OptimizerConfig, ScheduleConfig
from experiments.engine.settings import Operation, TrainingConfig
from experiments.models.fpn_config import FPNConfig
from experiments.models.resnet_config import ResNetConfig

# Both buckets have one shape, so less is compiled.
TINY = DetectionConfig(
    model=DetectorConfig(
        backbone=ResNetConfig(18, norm="sync_batch", width=2),
        frozen_stages=0,
        neck=FPNConfig(channels=4),
        anchors=AnchorConfig(scale=4.0),
        training_proposals=ProposalConfig(16, 16),
        proposals=ProposalConfig(16, 16),
        box=BoxHeadConfig(features=8, detections=5, score_threshold=0.0),
        masks=True,
        mask=MaskHeadConfig(size=7, layers=1, features=4),
    ),
    data=DataConfig(
        "scenes",
        shorter=64,
        longer=64,
        max_objects=2,
        mask_side=14,
        scenes=ScenesConfig("pypi", 64, 8, 6, smallest=24, largest=48, max_objects=2),
    ),
    training=TrainingConfig(
        batch_size=4,
        optimizer=OptimizerConfig(learning_rate=0.01),
        schedule=ScheduleConfig(length=6, decay="constant"),
    ),
    anchor_sampler=dataclasses.replace(ANCHORS, count=16),
    proposal_sampler=dataclasses.replace(PROPOSALS, count=16),
)


def train(folder, data_dir, cache, config=TINY, checkpoint_every=2):
    operation = Operation(log_every=1, checkpoint_every=checkpoint_every, keep_last=3)
    return train_run(config, folder, Folders(data_dir, cache), operation)


def main():
    """Trains the detector as one of two processes with two devices each."""
    folder, data_dir, cache, process, port = sys.argv[1:]
    start(Distributed(False, f"127.0.0.1:{port}", 2, int(process), cpu_devices=2))
    train(Path(folder), Path(data_dir), Path(cache))


if __name__ == "__main__":
    main()
