"""Backbones that were trained to classify."""

import dataclasses
from pathlib import Path
from typing import Any

from experiments.classification import task as classification
from experiments.classification.presets import PRESETS
from experiments.engine.config import check, differences
from experiments.engine.runs import run_folder
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
    run = classification.RUNS.load(folder)
    trained = dataclasses.replace(run.config.model, norm=backbone.norm)
    changed = differences(trained, backbone, "model.backbone.")
    check(not changed, "backbone_from", "a run of the same network", "; ".join(changed))
    params = {name: leaf for name, leaf in run.state["params"].items() if name != "fc"}
    return {
        **variables,
        "params": {**variables["params"], "backbone": params},
        "batch_stats": {**variables["batch_stats"], "backbone": run.state["model_state"]},
    }


def backbone_folder(backbone: ResNetConfig, runs: Path) -> Path:
    """The folder of the classification run that pretrains a backbone on ImageNet.

    It is that of the first preset of the classification task with this network, with the preset's
    own seed whatever the seed of the detector.

    Args:
        backbone: of the detector; its norms need not be the run's.
        runs: folder of all runs.

    Raises:
        ConfigError: there is no such run; the message says how to train or to convert one.
    """
    name, config = next(
        (preset.name, preset.config)
        for preset in PRESETS
        if dataclasses.replace(preset.config.model, norm=backbone.norm) == backbone
    )
    folder = run_folder(config, PRESETS, runs, classification.RUNS.task).resolve()
    command = f"python -m experiments.{classification.RUNS.task}"
    check(
        (folder / "config.json").exists(),
        "backbone_from",
        f"a run of {name}, which `{command} train {name}` trains and `{command} convert {name}` "
        "makes of other weights",
        f"{folder}, which holds none",
    )
    return folder
