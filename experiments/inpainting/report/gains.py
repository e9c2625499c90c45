"""Gains of presets with CARAFE++ over their baselines, measured and in the paper."""

from collections.abc import Mapping

from experiments.engine.config import differences
from experiments.engine.tables.table import Spread, Spreads
from experiments.inpainting.configs import InpaintingConfig
from experiments.inpainting.evaluation import Metrics
from experiments.inpainting.metrics import METRICS
from experiments.inpainting.presets import TABLE_10, InpaintingPreset

# Differences of two configs in their resamplers begin with one of these.
_RESAMPLERS = ("model.downsampler:", "model.upsampler:")


def baseline_of(preset: InpaintingPreset, presets: Mapping[str, InpaintingPreset]) -> str | None:
    """The name of the preset without CARAFE++ that differs only in its resamplers.

    Args:
        preset: the preset whose baseline is returned.
        presets: presets among which the baseline is searched, by name.

    Returns:
        The name, or None if there is no such preset or ``preset`` has no CARAFE++.
    """
    for name, other in presets.items():
        found = differences(other.config, preset.config)
        resamplers_alone = all(line.startswith(_RESAMPLERS) for line in found)
        if resamplers_alone and _has_carafe(preset) and not _has_carafe(other):
            return name
    return None


def _has_carafe(preset: InpaintingPreset) -> bool:
    return "carafe" in (preset.config.model.downsampler, preset.config.model.upsampler)


def gains(runs: Mapping[int, Metrics], baseline: Mapping[int, Metrics]) -> Spreads:
    """Differences between runs with the same seed, which have the same images in the same order.

    Args:
        runs: metrics of each run, by seed.
        baseline: metrics of the baseline's runs, with the same seeds.
    """
    first = next(iter(runs.values()))
    return {
        key: Spread.of([run[key] - baseline[seed][key] for seed, run in runs.items()])
        for key in first
        if key.split("/")[0] in METRICS
    }


def paper_gains(config: InpaintingConfig) -> Spreads:
    """Differences between the scores of a network with and without CARAFE++ in Table 10.

    All rows of Table 10 have the network of Global&Local; for other networks the result is empty.
    """
    if config.model.architecture != "global_local":
        return {}
    rows = [row for row in TABLE_10 if row.config.model.convolution == config.model.convolution]
    (ours,) = [row.paper for row in rows if _has_carafe(row)]
    (theirs,) = [row.paper for row in rows if not _has_carafe(row)]
    return {metric: Spread(ours[metric] - theirs[metric]) for metric in ours}
