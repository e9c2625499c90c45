"""What a preset with CARAFE++ gains over the one without, here and in the paper."""

from collections.abc import Mapping

from experiments.engine.config import differences
from experiments.engine.tables.table import Spread, Spreads
from experiments.inpainting.configs import InpaintingConfig
from experiments.inpainting.evaluation import Metrics
from experiments.inpainting.metrics import METRICS
from experiments.inpainting.presets import TABLE_10, InpaintingPreset

# How the differences of two configs begin that are of resamplers.
_RESAMPLERS = ("model.downsampler:", "model.upsampler:")


def baseline_of(preset: InpaintingPreset, presets: Mapping[str, InpaintingPreset]) -> str | None:
    """The name of the preset that has other resamplers than CARAFE++, and is the same in all else.

    Args:
        preset: the one to find it for; there is none for one without CARAFE++.
        presets: by name.
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
    """Differences between runs of the same seeds, which see the same images in the same order.

    Args:
        runs: metrics by the seed.
        baseline: metrics of the runs to compare with, of the same seeds.
    """
    first = next(iter(runs.values()))
    return {
        key: Spread.of([run[key] - baseline[seed][key] for seed, run in runs.items()])
        for key in first
        if key.split("/")[0] in METRICS
    }


def paper_gains(config: InpaintingConfig) -> Spreads:
    """Differences of the scores in Table 10, between the rows of this network.

    All rows of that table are of Global&Local's network; for another there are none.
    """
    if config.model.architecture != "global_local":
        return {}
    rows = [row for row in TABLE_10 if row.config.model.convolution == config.model.convolution]
    (ours,) = [row.paper for row in rows if _has_carafe(row)]
    (theirs,) = [row.paper for row in rows if not _has_carafe(row)]
    return {metric: Spread(ours[metric] - theirs[metric]) for metric in ours}
