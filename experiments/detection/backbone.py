"""Backbones that were trained to classify."""

import dataclasses
from pathlib import Path
from typing import Any

from experiments.classification import task as classification
from experiments.classification.presets import CATALOGUE, PRESETS, ClassificationPreset
from experiments.detection.configs import DetectionConfig
from experiments.engine.checkpoints import CHECKPOINTS, CheckpointError, steps_in
from experiments.engine.claim import is_converted, is_finished, is_run
from experiments.engine.config import check, differences
from experiments.engine.runs import run_folder
from experiments.models.resnet_config import ResNetConfig


def with_backbone(variables: Any, folder: Path, backbone: ResNetConfig) -> dict[str, Any]:
    """A detector's variables with the network of a classification run as its backbone.

    Args:
        variables: of the detector: ``params`` and ``batch_stats``.
        folder: of the run, such as one that `python -m experiments.classification convert` made.
        backbone: of the detector; its norms need not be the run's.

    Returns:
        New variables. The run's classifier is left out.

    Raises:
        CheckpointError: there is no such run, it is not finished, or it cannot be read.
        ConfigError: it is of another network.
    """
    check_backbone(folder, backbone)
    run = classification.RUNS.load(folder)
    params = {name: leaf for name, leaf in run.state["params"].items() if name != "fc"}
    return {
        **variables,
        "params": {**variables["params"], "backbone": params},
        "batch_stats": {**variables["batch_stats"], "backbone": run.state["model_state"]},
    }


def backbone_folder(config: DetectionConfig, runs: Path) -> Path | None:
    """The folder of the classification run as whose network a detector's backbone starts.

    By default that is, for a backbone with frozen norms, the run of the classification task's
    preset on ImageNet with this network. It has the seed of its preset, whatever the seed of the
    detector.

    Args:
        config: of the detector.
        runs: folder of all runs.

    Returns:
        The folder, or None for a backbone that starts at random.

    Raises:
        ConfigError: the norms are frozen, ``backbone_from`` is None, and no preset of the
            classification task has this network.
    """
    backbone = config.model.backbone
    if config.backbone_from is not None:
        return Path(config.backbone_from)
    if backbone.norm != "frozen":
        return None
    preset = _preset(backbone)
    expected = f"given for a backbone that no preset of the {CATALOGUE.task} task has"
    check(preset is not None, "backbone_from", expected, None)
    assert preset is not None
    return run_folder(preset.config, PRESETS, runs)


def check_backbone(folder: Path, backbone: ResNetConfig) -> None:
    """Checks that a classification run can be the start of a backbone, without reading its weights.

    Args:
        folder: of the run.
        backbone: of the detector; its norms need not be the run's.

    Raises:
        CheckpointError: there is no such run, or it has been started and not trained to its end;
            the message says how to get one. A converted run need not be trained further.
        ConfigError: it is of another network.
    """
    if not is_run(folder):
        raise CheckpointError(f"backbone_from: {folder} holds no run{_advice(backbone)}")
    model = classification.RUNS.load_config(folder).model
    changed = differences(
        dataclasses.replace(model, norm=backbone.norm), backbone, "model.backbone."
    )
    check(not changed, "backbone_from", "a run of the same network", "; ".join(changed))
    untouched = is_converted(folder) and steps_in(folder / CHECKPOINTS) == [0]
    if not (is_finished(folder) or untouched):
        raise CheckpointError(
            f"backbone_from: the run in {folder} has not been trained to its end{_advice(backbone)}"
        )


def _advice(backbone: ResNetConfig) -> str:
    preset = _preset(backbone)
    if preset is None:
        return ""
    command = f"python -m experiments.{CATALOGUE.task}"
    return (
        f". Its backbone is that of {preset.name}: `{command} train {preset.name}` trains it, and "
        f"`{command} convert {preset.name}` makes it of other weights"
    )


def _preset(backbone: ResNetConfig) -> ClassificationPreset | None:
    """The first preset of classification on ImageNet with this network, whatever its norms."""
    return next(
        (
            preset
            for preset in PRESETS
            if preset.config.data.source == "imagenet2012"
            and dataclasses.replace(preset.config.model, norm=backbone.norm) == backbone
        ),
        None,
    )
