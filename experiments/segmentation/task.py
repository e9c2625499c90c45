"""Inference of the segmentation task (a stand-in with the interface of the task)."""

from pathlib import Path
from typing import Any

import jax

from experiments.data.label_maps import LabelMaps
from experiments.engine.runs import RunType
from experiments.engine.settings import EvaluationConfig
from experiments.engine.step import State
from experiments.segmentation.configs import SegmentationConfig
from experiments.segmentation.data.config import Split
from experiments.segmentation.evaluation.evaluator import SegmentationEvaluator


def initial_state(config: SegmentationConfig) -> State:
    """The state of a run at step 0."""
    raise NotImplementedError


RUNS = RunType(SegmentationConfig, initial_state, best="mIoU")


def make_model(config: SegmentationConfig) -> Any:
    """The network of a config."""
    raise NotImplementedError


def segment(model: Any, state: State, image: jax.Array) -> jax.Array:
    """The logits of uint8 images."""
    raise NotImplementedError


def read_class_names(folder: Path, count: int) -> tuple[str, ...]:
    """The names of the classes of a run."""
    raise NotImplementedError


def make_evaluator(
    config: SegmentationConfig,
    data: LabelMaps,
    evaluation: EvaluationConfig,
    split: Split = "validation",
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
) -> SegmentationEvaluator:
    """The evaluator of a config's network on the validation images."""
    raise NotImplementedError
