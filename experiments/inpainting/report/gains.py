"""What a preset with CARAFE++ gains over the one without, here and in the paper."""

from collections.abc import Mapping, Sequence

from experiments.engine.config import differences
from experiments.engine.tables import Row, Spread
from experiments.inpainting.configs import InpaintingConfig
from experiments.inpainting.evaluation import Metrics
from experiments.inpainting.metrics import METRICS
from experiments.inpainting.presets import InpaintingPreset

# Of Table 10, by the convolutions of the network: with CARAFE++ and without.
_TABLE_10 = {
    "plain": {"l1_image": (5.82, 6.69), "psnr_image": (20.93, 19.58)},
    "partial": {"l1_image": (5.60, 5.96), "psnr_image": (21.05, 20.78)},
}
# How the differences of two configs begin that are of resamplers.
_RESAMPLERS = ("model.downsampler:", "model.upsampler:")
PAPER_METRICS = ("l1_image", "psnr_image")


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


def gains(runs: Sequence[Metrics], baseline: Sequence[Metrics]) -> Row:
    """Differences between runs of the same seeds, which see the same images in the same order.

    Args:
        runs: metrics of each seed.
        baseline: likewise, in the same order.
    """
    pairs = list(zip(runs, baseline, strict=True))
    return {
        key: Spread.of([run[key] - other[key] for run, other in pairs])
        for key in runs[0]
        if key.split("/")[0] in METRICS
    }


def paper_gains(config: InpaintingConfig) -> Row:
    """Differences of :data:`PAPER_METRICS` in Table 10, between the rows of this network.

    All rows of that table are of Global&Local's network; for another there are none.
    """
    if config.model.architecture != "global_local":
        return {}
    rows = _TABLE_10[config.model.convolution]
    return {metric: Spread(ours - theirs) for metric, (ours, theirs) in rows.items()}
