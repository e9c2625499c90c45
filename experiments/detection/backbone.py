"""Detector backbones that start from a classification network."""

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
    """Replaces a detector's backbone by the network of a classification run.

    Args:
        variables: the detector's variables: ``params`` and ``batch_stats``.
        folder: folder of the classification run, for example one made by
            `python -m experiments.classification convert`.
        backbone: config of the detector's backbone; its norms may differ from the run's.

    Returns:
        New variables. The run's classifier is left out.

    Raises:
        CheckpointError: there is no run in ``folder``, it is not finished, or it cannot be read.
        ConfigError: the run has a different network.
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
    """The folder of the classification run that initialises a detector's backbone.

    For a backbone with frozen norms, the default is the run of the classification task's ImageNet
    preset with the same network. That run has the seed of the preset, not of the detector.

    Args:
        config: config of the detector.
        runs: folder of all runs.

    Returns:
        The folder, or None for a backbone with random initial weights.

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
    """Checks that a classification run can initialise a backbone, without reading its weights.

    Args:
        folder: folder of the classification run.
        backbone: config of the detector's backbone; its norms may differ from the run's.

    Raises:
        CheckpointError: there is no run in ``folder``, or its training has not finished; the
            message says how to get one. A converted run needs no further training.
        ConfigError: the run has a different network.
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
        f". The preset {preset.name} has this backbone: `{command} train {preset.name}` trains it, "
        f"and `{command} convert {preset.name}` converts it from weights of another library"
    )


def _preset(backbone: ResNetConfig) -> ClassificationPreset | None:
    """The first ImageNet classification preset with this network and any norms."""
    return next(
        (
            preset
            for preset in PRESETS
            if preset.config.data.source == "imagenet2012"
            and dataclasses.replace(preset.config.model, norm=backbone.norm) == backbone
        ),
        None,
    )
