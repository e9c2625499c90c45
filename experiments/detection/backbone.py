"""Backbones that were trained to classify."""

import dataclasses
from pathlib import Path
from typing import Any

from experiments.classification import task as classification
from experiments.classification.configs import ClassificationConfig
from experiments.engine.config import check, differences
from experiments.engine.runs import load_run
from experiments.models.resnet import ResNetConfig


def with_backbone(variables: Any, folder: Path, backbone: ResNetConfig) -> dict[str, Any]:
    """A detector's variables with the network of a classification run as its backbone.

    Args:
        variables: of the detector: ``params`` and ``batch_stats``.
        folder: of the run, such as one that `python -m experiments.classification convert` made.
        backbone: of the detector; its norms need not be the run's.

    Returns:
        New variables. The run's classifier is left out.

    Raises:
        CheckpointError: there is no such run, or it cannot be read.
        ConfigError: it is of another network.
    """
    run = load_run(
        folder, ClassificationConfig, classification.initial_state, "classification",
        classification.BEST,
    )  # fmt: skip
    trained = dataclasses.replace(run.config.model, norm=backbone.norm)
    changed = differences(trained, backbone, "model.backbone.")
    check(not changed, "backbone_from", "a run of the same network", "; ".join(changed))
    params = {name: leaf for name, leaf in run.state["params"].items() if name != "fc"}
    return {
        **variables,
        "params": {**variables["params"], "backbone": params},
        "batch_stats": {**variables["batch_stats"], "backbone": run.state["model_state"]},
    }
