"""Presets for small versions of Tables 4, 11, 13 and 14, and for later upsamplers."""

import dataclasses
from typing import Any

from carafe_jax import Normalizer
from experiments.engine.presets import (
    Catalogue,
    Comparison,
    Experiment,
    Metric,
    Preset,
    at_learning_rates,
    compared_with,
)
from experiments.engine.settings import Operation
from experiments.pyramid.configs import PyramidConfig
from experiments.pyramid.metric_names import MEAN_IOU_OF_BORDERS
from experiments.resamplers.methods import Upsampler
from experiments.segmentation.evaluation.metric_names import (
    MEAN_IOU,
    MEAN_IOU_OF_PRESENT,
    PIXEL_ACCURACY,
)

PyramidPreset = Preset[PyramidConfig]

METRICS = (
    Metric(MEAN_IOU, "mIoU", "%", 2, 100),
    Metric(MEAN_IOU_OF_BORDERS, "mIoU near borders", "%", 2, 100, "column", compared=True),
    Metric(PIXEL_ACCURACY, "P.A.", "%", 2, 100),
    Metric(MEAN_IOU_OF_PRESENT, "mIoU of the classes that occur", "%", 2, 100, "detail"),
)

_CONFIG = PyramidConfig()
# Names of the upsamplers in Table 4.
_UPSAMPLERS: dict[Upsampler, str] = {
    "nearest": "Nearest",
    "bilinear": "Bilinear",
    "nearest_conv": "Nearest + Conv",
    "bilinear_conv": "Bilinear + Conv",
    "deconvolution": "Deconv",
    "pixel_shuffle": "Pixel Shuffle",
    "guided": "GUM",
    "spatial_attention": "Spatial Attention",
    "carafe": "CARAFE++",
}
# Upsamplers that were published after the paper.
_AFTER_PAPER: dict[Upsampler, str] = {
    "dysample": "DySample",
    "dysample_plus": "DySample+",
    "fade": "FADE",
    "fade_lite": "FADE-Lite",
    "sapa": "SAPA-B",
}
# Different learning rates suit the upsamplers. `rates` tries these, each twice the one before;
# neither the first nor the last is best.
_RATES: dict[Upsampler, tuple[float, ...]] = {
    "nearest": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2),
    "bilinear": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2),
    "nearest_conv": (1e-3, 2e-3, 4e-3, 8e-3),
    "bilinear_conv": (1e-3, 2e-3, 4e-3, 8e-3),
    "deconvolution": (1e-3, 2e-3, 4e-3, 8e-3),
    "pixel_shuffle": (1e-3, 2e-3, 4e-3),
    "guided": (2e-3, 4e-3, 8e-3),
    "spatial_attention": (2e-3, 4e-3, 8e-3, 1.6e-2),
    "carafe": (2e-3, 4e-3, 8e-3, 1.6e-2),
    "static_kernels": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2),
    "encoded_box": (1e-3, 2e-3, 4e-3, 8e-3),
    "dysample": (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2),
    "dysample_plus": (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2),
    "fade": (2e-3, 4e-3, 8e-3, 1.6e-2),
    "fade_lite": (2e-3, 4e-3, 8e-3, 1.6e-2),
    "sapa": (2e-3, 4e-3, 8e-3, 1.6e-2),
}
# The learning rates with the highest mIoU, which the tables have.
_LEARNING_RATES: dict[Upsampler, float] = {
    "nearest": 3.2e-2,
    "bilinear": 3.2e-2,
    "nearest_conv": 2e-3,
    "bilinear_conv": 2e-3,
    "deconvolution": 4e-3,
    "pixel_shuffle": 2e-3,
    "guided": 4e-3,
    "spatial_attention": 8e-3,
    "carafe": 4e-3,
    "static_kernels": 3.2e-2,
    "encoded_box": 4e-3,
    "dysample": 1.6e-2,
    "dysample_plus": 1.6e-2,
    "fade": 4e-3,
    "fade_lite": 8e-3,
    "sapa": 4e-3,
}
# Rows of the ablations, by name, that the default CARAFE++ beats: perhaps only because its learning
# rate does not suit them. `carafe-rates` tries these.
_RATES_OF_ABLATIONS: dict[str, tuple[float, ...]] = {
    "c64": (1e-3, 2e-3, 4e-3, 8e-3),
    "uncompressed": (2e-3, 4e-3, 8e-3),
    "k13": (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2),
    "k15": (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2),
    "k55": (2e-3, 4e-3, 8e-3),
    "k57": (2e-3, 4e-3, 8e-3),
    "sigmoid": (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2),
}
# The best of them, where it is not that of the default CARAFE++.
_LEARNING_RATES_OF_ABLATIONS: dict[str, float] = {
    "c64": 2e-3,
    "k13": 1.6e-2,
    "k15": 1.6e-2,
    "sigmoid": 3.2e-2,
}
# The smallest number of channels at which nearest upsampling has at least as many parameters and
# operations as CARAFE++ at 64 channels.
_CHANNELS_OF_EQUAL_COST = 89


def _preset(name: str, row: str, upsampler: Upsampler, **changes: Any) -> PyramidPreset:
    model = dataclasses.replace(_CONFIG.model, upsampler=upsampler, **changes)
    rate = _LEARNING_RATES_OF_ABLATIONS.get(name, _LEARNING_RATES[upsampler])
    config = dataclasses.replace(_CONFIG, model=model).with_learning_rate(rate)
    return Preset(name, row, config, paper_note="none: another dataset")


def _carafe_preset(name: str, row: str, **changes: Any) -> PyramidPreset:
    sizes = dataclasses.replace(_CONFIG.model.carafe, **changes)
    return _preset(name, f"CARAFE++, {row}", "carafe", carafe=sizes)


# Of the paper's values of C_m, 16 to 256 of 256 channels, this table has a quarter.
_COMPRESSED = (4, 8, 16, 32, 64)
_SIZES = ((1, 3), (1, 5), (3, 3), (3, 5), (3, 7), (5, 5), (5, 7))
_NORMALIZERS: dict[Normalizer, str] = {
    "softmax": "Softmax",
    "sigmoid": "Sigmoid",
    "sigmoid_normalized": "Sigmoid Normalized",
}


def _rows(names: dict[Upsampler, str]) -> tuple[PyramidPreset, ...]:
    return tuple(_preset(method.replace("_", "-"), row, method) for method, row in names.items())


TABLE_4 = (
    *_rows(_UPSAMPLERS),
    _preset("nearest-wide", "Nearest, wide", "nearest", channels=_CHANNELS_OF_EQUAL_COST),
)
TABLE_11 = (
    *(
        _carafe_preset(f"c{count}", f"C_m = {count}", compressed_channels=count)
        for count in _COMPRESSED
    ),
    _carafe_preset("uncompressed", "no channel compressor", compressed_channels=None),
)
TABLE_13 = tuple(
    _carafe_preset(
        f"k{encoder}{reassembly}",
        f"k_encoder = {encoder}, k_reassembly = {reassembly}",
        encoder_size=encoder,
        kernel_size=reassembly,
    )
    for encoder, reassembly in _SIZES
)
TABLE_14 = tuple(
    _carafe_preset(normalizer.replace("_", "-"), name, normalizer=normalizer)
    for normalizer, name in _NORMALIZERS.items()
)
_ABLATIONS = {preset.name: preset for preset in (*TABLE_11, *TABLE_13, *TABLE_14)}
CARAFE_RATES = tuple(
    each
    for name, rates in _RATES_OF_ABLATIONS.items()
    for each in at_learning_rates((_ABLATIONS[name],), rates)
)
_CONTROLS: dict[Upsampler, str] = {
    "static_kernels": "Learned kernels without content",
    "encoded_box": "Box filter + convolutions of CARAFE++",
}
_BY_NAME = {preset.name: preset for preset in TABLE_4}
_NEAREST, _CARAFE = _BY_NAME["nearest"], _BY_NAME["carafe"]
_CONTROL_ROWS = _rows(_CONTROLS)
# Is it the content, or the capacity of the predictor?
CAPACITY = (_NEAREST, _BY_NAME["nearest-wide"], *_CONTROL_ROWS, _CARAFE)
_ROWS_AFTER_PAPER = _rows(_AFTER_PAPER)
AFTER_PAPER = (_NEAREST, _BY_NAME["nearest-wide"], _CARAFE, *_ROWS_AFTER_PAPER)
RATES = tuple(
    each
    for preset in (*TABLE_4, *_CONTROL_ROWS, *_ROWS_AFTER_PAPER)
    for each in at_learning_rates((preset,), _RATES[preset.config.model.upsampler])
)
# No other table has it.
_SEED_OF_RATES = 100
_SEEDS = (0, 1, 2)
_MORE_SEEDS = (0, 1, 2, 3, 4)


def _with_defaults(presets: tuple[PyramidPreset, ...]) -> PyramidPreset:
    """Returns the row of CARAFE++ with the sizes of the other tables."""
    return next(preset for preset in presets if preset.config == _CARAFE.config)


# Runs with equal configs have the name of the first preset: a run of `rates` with the rate of a row
# is a run of the row.
EXPERIMENTS = {
    "table4": Experiment(
        "Small version of Table 4 on cached features, with a widened baseline",
        TABLE_4,
        _MORE_SEEDS,
        comparisons=(
            *compared_with(_NEAREST, TABLE_4),
            Comparison("carafe", "nearest-wide"),
            Comparison("carafe", "bilinear"),
            Comparison("carafe", "deconvolution"),
        ),
    ),
    "capacity": Experiment(
        "CARAFE++ and two controls, on cached features",
        CAPACITY,
        _MORE_SEEDS,
        comparisons=(
            *compared_with(_NEAREST, CAPACITY),
            *(
                Comparison("carafe", preset.name)
                for preset in CAPACITY
                if preset not in (_NEAREST, _CARAFE)
            ),
        ),
    ),
    "after-paper": Experiment(
        "CARAFE++ and upsamplers published after the paper, on cached features",
        AFTER_PAPER,
        _MORE_SEEDS,
        comparisons=(
            *compared_with(_NEAREST, AFTER_PAPER),
            *compared_with(_CARAFE, _ROWS_AFTER_PAPER),
        ),
    ),
    **{
        f"table{number}": Experiment(
            f"Small version of Table {number} on cached features",
            presets,
            _SEEDS,
            comparisons=compared_with(_with_defaults(presets), presets),
        )
        for number, presets in ((11, TABLE_11), (13, TABLE_13), (14, TABLE_14))
    },
    "rates": Experiment(
        "Learning rates of the rows of table4, capacity and after-paper", RATES, (_SEED_OF_RATES,)
    ),
    "carafe-rates": Experiment(
        "Learning rates of ablated rows of CARAFE++", CARAFE_RATES, (_SEED_OF_RATES,)
    ),
}
PRESETS = tuple({row.name: row for each in EXPERIMENTS.values() for row in each.presets}.values())
CATALOGUE = Catalogue(
    METRICS, PRESETS, EXPERIMENTS, Operation(checkpoint_every=100, evaluate_every=100)
)
