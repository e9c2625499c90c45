"""Backbones of other tasks that start from a classification network."""

import dataclasses
import operator
from pathlib import Path
from typing import Any

from flax import traverse_util

from experiments.classification import task as classification
from experiments.classification.presets import CATALOGUE, PRESETS, ClassificationPreset
from experiments.engine.checkpoints import CHECKPOINTS, CheckpointError, steps_in
from experiments.engine.claim import is_converted, is_finished, is_run
from experiments.engine.config import check, differences
from experiments.engine.runs import run_folder
from experiments.models.resnet_config import ResNetConfig

# The convolution that predicts the offsets and masks of a deformable convolution.
_PREDICTOR = "conv_offset"


def with_backbone(variables: Any, folder: Path, backbone: ResNetConfig) -> dict[str, Any]:
    """Replaces a network's backbone by the network of a classification run.

    Args:
        variables: variables of the network, ``params`` and ``batch_stats``, with the backbone under
            the name ``backbone``.
        folder: folder of the classification run, for example one made by
            `python -m experiments.classification convert`.
        backbone: config of the backbone; its norms may differ from the run's, and with strided
            convolutions its output stride. It may have deformable convolutions in place of the
            plain ones of the run: they get the kernels of the run, and the convolutions that
            predict offsets and masks keep their values in ``variables``. Initially these are 0, all
            masks are 0.5, and so a deformable convolution gives half of the plain one.

    Returns:
        New variables. The run's classifier is left out.

    Raises:
        CheckpointError: there is no run in ``folder``, it is not finished, or it cannot be read.
        ConfigError: the run has a different network.
    """
    check_backbone(folder, backbone)
    run = classification.RUNS.load(folder)
    params = {name: leaf for name, leaf in run.state["params"].items() if name != "fc"}
    own = traverse_util.flatten_dict(variables["params"]["backbone"])
    predictors = {path: leaf for path, leaf in own.items() if _PREDICTOR in path}
    merged = traverse_util.unflatten_dict({**predictors, **traverse_util.flatten_dict(params)})
    return {
        **variables,
        "params": {**variables["params"], "backbone": merged},
        "batch_stats": {**variables["batch_stats"], "backbone": run.state["model_state"]},
    }


def backbone_folder(backbone: ResNetConfig, backbone_from: str | None, runs: Path) -> Path:
    """The folder of the classification run that initialises a backbone.

    The default is the run of the classification task's ImageNet preset with the same network. That
    run has the seed of the preset, not of the network that it initialises.

    Args:
        backbone: config of the backbone. Its run may be of the network without deformable
            convolutions.
        backbone_from: folder of the run; None for the default.
        runs: folder of all runs.

    Raises:
        ConfigError: ``backbone_from`` is None, and no preset of the classification task has this
            network.
    """
    if backbone_from is not None:
        return Path(backbone_from)
    preset = _preset(backbone)
    expected = f"given for a backbone that no preset of the {CATALOGUE.task} task has"
    check(preset is not None, "backbone_from", expected, None)
    assert preset is not None
    return run_folder(preset.config, PRESETS, runs)


def check_backbone(folder: Path, backbone: ResNetConfig) -> None:
    """Checks that a classification run can initialise a backbone, without reading its weights.

    Args:
        folder: folder of the classification run.
        backbone: config of the backbone; it may differ from the run's as in :func:`with_backbone`.

    Raises:
        CheckpointError: there is no run in ``folder``, or its training has not finished; the
            message says how to get one. A converted run needs no further training.
        ConfigError: the run has a different network.
    """
    if not is_run(folder):
        raise CheckpointError(f"backbone_from: {folder} holds no run{_advice(backbone)}")
    model = classification.RUNS.load_config(folder).model
    changed = differences(*_compared(model, backbone), "model.backbone.")
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
    """The first ImageNet classification preset whose weights fit a backbone."""
    return next(
        (
            preset
            for preset in PRESETS
            if preset.config.data.source == "imagenet2012"
            and operator.eq(*_compared(preset.config.model, backbone))
        ),
        None,
    )


def _compared(model: ResNetConfig, backbone: ResNetConfig) -> tuple[ResNetConfig, ResNetConfig]:
    """Both configs without the choices that may differ: equal if the weights fit the backbone."""
    model = dataclasses.replace(model, norm=backbone.norm)
    # A stage that dilates instead of downsampling has no downsampler, and so lacks its weights.
    if model.downsampler == "strided":
        model = dataclasses.replace(model, output_stride=backbone.output_stride)
    # A deformable convolution has the kernel of a plain one, and a predictor that starts at 0.
    if not any(model.deformable_stages):
        backbone = dataclasses.replace(
            backbone,
            deformable_stages=model.deformable_stages,
            deformable_groups=model.deformable_groups,
        )
    return model, backbone
