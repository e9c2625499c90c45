"""Presets for Table 10, smaller ones for one GPU and for two cores, and Partial Conv's U-Net."""

import dataclasses
from typing import Any

from experiments.engine.optimization_config import OptimizerConfig, ScheduleConfig
from experiments.engine.presets import Catalogue, Comparison, Experiment, Metric, Preset
from experiments.engine.settings import Operation, TrainingConfig
from experiments.inpainting.configs import (
    PAPER_TRAINING,
    AdversarialConfig,
    DataConfig,
    InpaintingConfig,
    ReconstructionConfig,
)
from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.inpainting.model.patchgan_config import PatchGANConfig

InpaintingPreset = Preset[InpaintingConfig]

# The metrics of Table 10 first, in its order.
METRICS = (
    Metric("l1_image", "L1", "%"),
    Metric("psnr_image", "PSNR", "dB"),
    Metric("ssim_image", "SSIM", digits=4, place="column"),
    Metric("l1_hole", "hole L1", "%", place="column"),
    Metric("psnr_hole", "hole PSNR", "dB", place="column", compared=True),
    Metric("ssim_hole", "hole SSIM", digits=4, place="column"),
)

_CARAFE = GeneratorConfig(downsampler="carafe", upsampler="carafe")
# Partial Conv in Table 10 is the same generator with partial convolutions (section 5.1). There is
# no partial deconvolution, so nearest upsampling and a convolution replace it.
_MODELS = {
    "global-local": GeneratorConfig(),
    "global-local-carafe": _CARAFE,
    "partial-conv": GeneratorConfig(convolution="partial", upsampler="nearest"),
    "partial-conv-carafe": dataclasses.replace(_CARAFE, convolution="partial"),
}
_ROWS = {
    "global-local": "Global&Local",
    "global-local-carafe": "Global&Local w/ CARAFE++",
    "partial-conv": "Partial Conv",
    "partial-conv-carafe": "Partial Conv w/ CARAFE++",
}
_SCORES = {
    "global-local": {"l1_image": 6.69, "psnr_image": 19.58},
    "global-local-carafe": {"l1_image": 5.82, "psnr_image": 20.93},
    "partial-conv": {"l1_image": 5.96, "psnr_image": 20.78},
    "partial-conv-carafe": {"l1_image": 5.60, "psnr_image": 21.05},
}
# Differences from the rows of Table 10; see `_on_two_cores`.
_UPSAMPLED = {"global-local": ", nearest upsampling"}
_RUNTIMES = {
    "global-local": "2 min",
    "global-local-carafe": "4 min",
    "partial-conv": "3 min",
    "partial-conv-carafe": "6 min",
}
_MEASURED_ON_TWO_CORES = {
    "global-local": {"psnr_image": 22.96, "psnr_hole": 17.78},
    "global-local-carafe": {"psnr_image": 23.33, "psnr_hole": 18.14},
    "partial-conv": {"psnr_image": 24.26, "psnr_hole": 19.07},
    "partial-conv-carafe": {"psnr_image": 24.53, "psnr_hole": 19.34},
}
_OTHER_DATA = "none: another dataset"
# The smallest width at which a baseline has at least as many parameters and operations as the row
# with CARAFE++ at width 64.
_WIDTHS_OF_EQUAL_COST = {"global-local": 71, "partial-conv": 66}

_PAPER = InpaintingConfig(data=DataConfig("places365_small"))
_GPU = InpaintingConfig(
    data=DataConfig("debian", crop_side=128),
    dtype="bfloat16",
    training=dataclasses.replace(
        PAPER_TRAINING,
        workers=8,
        schedule=ScheduleConfig(length=10_000, warmup=200, decay="cosine"),
    ),
)
_CPU = InpaintingConfig(
    data=DataConfig("pypi", crop_side=64),
    adversarial=AdversarialConfig(discriminator=PatchGANConfig(width=16)),
    training=TrainingConfig(
        batch_size=8,
        optimizer=OptimizerConfig(name="adam", learning_rate=2e-3, b1=0.5, b2=0.9),
        schedule=ScheduleConfig(length=600, warmup=30, decay="cosine"),
    ),
)
# With a constant learning rate and a moving average of the parameters, every evaluation during the
# training is one of a shorter training.
_PHOTOGRAPHS = dataclasses.replace(
    _CPU,
    data=DataConfig("debian", crop_side=64),
    ema_decay=0.99,
    training=TrainingConfig(
        batch_size=8,
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-3, b1=0.5, b2=0.9),
        schedule=ScheduleConfig(length=1200, warmup=30, decay="constant"),
    ),
)
# As `_WIDTHS_OF_EQUAL_COST`, for CARAFE++ at width 16 and the networks of `_on_two_cores`.
_NARROW_WIDTH_OF_EQUAL_COST = 20
# Without the perceptual and style losses of reference 26, section 3.3, which need the weights of a
# VGG network.
_UNET = InpaintingConfig(
    data=DataConfig("places365_small"),
    reconstruction=ReconstructionConfig(hole=6.0, valid=1.0, total_variation=0.1),
    adversarial=AdversarialConfig(weight=0.0),
    training=dataclasses.replace(
        PAPER_TRAINING, optimizer=OptimizerConfig(name="adam", learning_rate=2e-4)
    ),
)


def _with_model(
    config: InpaintingConfig, model: GeneratorConfig, **changes: Any
) -> InpaintingConfig:
    return dataclasses.replace(config, model=dataclasses.replace(model, **changes))


def _on_two_cores(model: GeneratorConfig) -> GeneratorConfig:
    # On a CPU, the gradient of a deconvolution takes longer than the rest of this small network.
    upsampler = "nearest" if model.upsampler == "deconvolution" else model.upsampler
    return dataclasses.replace(model, width=16, upsampler=upsampler)


TABLE_10 = tuple(
    Preset(
        f"table10-{name}",
        f"Table 10, {_ROWS[name]}",
        _with_model(_PAPER, model),
        _SCORES[name],
    )
    for name, model in _MODELS.items()
)
GPU = (
    *(
        Preset(
            f"gpu-{name}",
            f"{_ROWS[name]} (gpu)",
            _with_model(_GPU, model),
            paper_note=_OTHER_DATA,
        )
        for name, model in _MODELS.items()
    ),
    *(
        Preset(
            f"gpu-{name}-wide",
            f"{_ROWS[name]}, wide (gpu)",
            _with_model(_GPU, _MODELS[name], width=width),
            paper_note=_OTHER_DATA,
        )
        for name, width in _WIDTHS_OF_EQUAL_COST.items()
    ),
)
CPU = tuple(
    Preset(
        f"cpu-{name}",
        f"{_ROWS[name]}{_UPSAMPLED.get(name, '')} (cpu)",
        _with_model(_CPU, _on_two_cores(model)),
        paper_note=_OTHER_DATA,
        measured=_MEASURED_ON_TWO_CORES[name],
        measured_note="one seed, 2026-11-23, 2 CPU cores",
        runtime=f"{_RUNTIMES[name]} on 2 CPU cores",
    )
    for name, model in _MODELS.items()
)
PHOTOGRAPHS = tuple(
    Preset(
        f"photographs-{name}",
        f"{row}{_UPSAMPLED.get(name.removesuffix('-wide'), '')} (photographs)",
        _with_model(_PHOTOGRAPHS, model),
        paper_note=_OTHER_DATA,
    )
    for name, row, model in (
        *((name, _ROWS[name], _on_two_cores(model)) for name, model in _MODELS.items()),
        *(
            (
                f"{name}-wide",
                f"{_ROWS[name]}, wide",
                dataclasses.replace(
                    _on_two_cores(_MODELS[name]), width=_NARROW_WIDTH_OF_EQUAL_COST
                ),
            )
            for name in _WIDTHS_OF_EQUAL_COST
        ),
    )
)
UNET = tuple(
    Preset(
        name,
        f"U-Net of Partial Conv{' w/ CARAFE++' if name.endswith('carafe') else ''}",
        _with_model(_UNET, model, architecture="unet", levels=7),
        paper_note="none: reference 26 trains on 512x512, with a perceptual and a style loss",
    )
    for name, model in (
        ("unet", _MODELS["partial-conv"]),
        ("unet-carafe", _MODELS["partial-conv-carafe"]),
    )
)
PRESETS = (*TABLE_10, *GPU, *CPU, *PHOTOGRAPHS, *UNET)
_SEEDS = (0, 1, 2)


def _comparisons(
    prefix: str, *names: str, wide: bool = False, wide_and_plain: bool = False
) -> tuple[Comparison, ...]:
    """Compares CARAFE++ with its baselines, and the widened baselines with the plain ones."""
    found = []
    for name in names:
        plain, carafe = f"{prefix}-{name}", f"{prefix}-{name}-carafe"
        ours, theirs = _SCORES[f"{name}-carafe"], _SCORES[name]
        # All rows are versions of Table 10, also the ones without scores of their own.
        paper = {metric: ours[metric] - theirs[metric] for metric in ours}
        found.append(Comparison(carafe, plain, paper))
        if wide:
            found.append(Comparison(carafe, f"{plain}-wide"))
        if wide_and_plain:
            found.append(Comparison(f"{plain}-wide", plain))
    return tuple(found)


_NETWORKS = ("global-local", "partial-conv")
EXPERIMENTS = {
    # The two fastest presets.
    "demo": Experiment(
        "Demo",
        CPU[:2],
        operation=Operation(checkpoint_every=100),
        comparisons=_comparisons("cpu", "global-local"),
    ),
    "table10": Experiment(
        "Table 10, Places",
        TABLE_10,
        _SEEDS,
        comparisons=_comparisons("table10", *_NETWORKS),
    ),
    "table10-gpu": Experiment(
        "Table 10 on 71 photographs, with widened baselines",
        GPU,
        _SEEDS,
        comparisons=_comparisons("gpu", *_NETWORKS, wide=True),
    ),
    "photographs-cpu": Experiment(
        "Small version of Table 10, on 71 photographs, with widened baselines",
        PHOTOGRAPHS,
        _SEEDS,
        Operation(checkpoint_every=200, evaluate_every=200),
        _comparisons("photographs", *_NETWORKS, wide=True, wide_and_plain=True),
    ),
    "table10-cpu": Experiment(
        "Small version of Table 10, on seven photographs",
        CPU,
        _SEEDS,
        comparisons=_comparisons("cpu", *_NETWORKS),
    ),
}
CATALOGUE = Catalogue(
    METRICS,
    PRESETS,
    EXPERIMENTS,
    Operation(checkpoint_every=1000, evaluate_every=5000),
)
