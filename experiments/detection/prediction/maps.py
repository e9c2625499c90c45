"""Figures of where a detector reassembles its features from (Figs. 1 and 9 of the paper)."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int32, UInt8
from matplotlib.figure import Figure

from experiments.detection.configs import DetectionConfig
from experiments.detection.data.object_masks import decode_mask
from experiments.detection.evaluation.results import Result
from experiments.detection.pathways import Observed, observe
from experiments.detection.task import RUNS, make_model
from experiments.engine.config import ConfigError, check
from experiments.engine.runs import LoadedRun
from experiments.engine.settings import CheckpointChoice
from experiments.engine.text import printable
from experiments.source_maps.figures import Pixels, pixels_of, pyramid_figure, sources_figure
from experiments.source_maps.instances import box_masks, instance_map, resized
from experiments.source_maps.pathways import (
    BESIDE_DOWN,
    BESIDE_UP,
    CARAFE,
    KNOWN_UPSAMPLERS,
    Pathway,
    compared,
    fixed_top_down,
)
from experiments.source_maps.targets import Target, choose_targets

# Fields of the data's config that determine the size of the network's input.
_INPUT_FIELDS = ("shorter", "longer", "rounding", "pad_multiple")
_TARGETS = 2  # of each kind in a figure of sources
_SAMPLED = 3  # pixels on objects, in a figure of pyramids

Size = tuple[int, int]
Instances = Int32[np.ndarray, "height width"]
Observe = Callable[[UInt8[np.ndarray, "1 H W 3"], Int32[np.ndarray, "1 2"]], Observed]


class Network(NamedTuple):
    """A network whose pyramid is drawn.

    Attributes:
        upsampler: upsampler of the pyramid, as in :class:`experiments.models.fpn_config.FPNConfig`.
        downsampler: downsampler of the backbone.
        observe: function from images, padded to a bucket, and their sizes to
            :class:`experiments.detection.pathways.Observed`.
    """

    upsampler: str
    downsampler: str
    observe: Observe

    @property
    def label(self) -> str:
        """The name of the upsampler in figures."""
        return CARAFE if self.upsampler == "carafe" else self.upsampler


class MapDrawer:
    """Draws the figures of one image after the other.

    Args:
        network: network of the run; it has CARAFE++ in its pyramid or its backbone, or a pyramid
            with a fixed upsampler.
        baseline: network with which the pyramid is compared; None draws one pyramid.
    """

    def __init__(self, network: Network, baseline: Network | None = None) -> None:
        self._network, self._baseline = network, baseline
        self.kinds = [
            *["maps-up", "maps-pyramid"] * has_known_upsampler(network.upsampler),
            *["maps-down"] * (network.downsampler == "carafe"),
        ]
        """Kinds of the figures that every image has."""

    def __call__(
        self,
        pixels: UInt8[np.ndarray, "1 H W 3"],
        size: Size,
        results: Sequence[Result],
        original_size: Size,
        title: str,
    ) -> dict[str, Pixels]:
        """Draws the figures of an image.

        Args:
            pixels: image, padded to a bucket.
            size: height and width of the image in ``pixels``, without the padding.
            results: detected objects, on which the targets lie. Without any, targets are on a grid.
            original_size: height and width of the image to which ``results`` refer.
            title: first line of the titles.

        Returns:
            RGB pixels of each figure by its kind; see :attr:`kinds`.
        """
        image = pixels[0, : size[0], : size[1]]
        instances = resized(_instances(results, original_size), size)
        sizes = np.array([size], np.int32)
        observed = self._network.observe(pixels, sizes)
        title = f"{title}, as the network reads it: {size[1]}x{size[0]} pixels\n"
        figures = {}
        if "maps-up" in self.kinds:
            figures["maps-up"] = self._up_figure(image, instances, observed, title)
            baseline = self._baseline.observe(pixels, sizes) if self._baseline else None
            figures["maps-pyramid"] = self._pyramid_figure(
                image, instances, observed, baseline, title
            )
        if "maps-down" in self.kinds:
            figures["maps-down"] = _down_figure(image, instances, observed, title)
        return {kind: pixels_of(figure) for kind, figure in figures.items()}

    def _up_figure(
        self, image: Pixels, instances: Instances, observed: Observed, title: str
    ) -> Figure:
        up = _up(self._network, observed)
        shown = compared(up, BESIDE_UP, self._network.label)
        targets = _targets(instances, up, _TARGETS)
        return sources_figure(image, shown, targets, f"{title}Upsampling in the feature pyramid")

    def _pyramid_figure(
        self,
        image: Pixels,
        instances: Instances,
        observed: Observed,
        baseline: Observed | None,
        title: str,
    ) -> Figure:
        up = _up(self._network, observed)
        networks = {self._network.label: (_levels(observed), up)}
        if baseline is not None:
            assert self._baseline is not None
            left = _levels(baseline), _up(self._baseline, baseline)
            networks = {
                f"baseline, {self._baseline.label}": left,
                f"run, {self._network.label}": networks[self._network.label],
            }
        targets = _targets(instances, up, _SAMPLED)
        inside = [target for target in targets if target.kind == "inside"]
        return pyramid_figure(
            image, networks, inside or targets[:_SAMPLED], f"{title}Feature pyramid"
        )


def _down_figure(image: Pixels, instances: Instances, observed: Observed, title: str) -> Figure:
    assert observed.down is not None
    down = observed.down.of_image(0)
    shown = compared(down, BESIDE_DOWN)
    targets = _targets(instances, down, _TARGETS)
    title = f"{title}Downsampling in the backbone; C1 is the input of its pool"
    return sources_figure(image, shown, targets, title)


def make_drawer(
    loaded: LoadedRun[DetectionConfig],
    run: Path,
    baseline: Path | None = None,
    checkpoint: CheckpointChoice = "newest",
) -> MapDrawer:
    """Makes the drawer of a run.

    Args:
        loaded: config and state of the run.
        run: folder of the run, for messages.
        baseline: folder of a run whose pyramid is drawn on the left; None for none.
        checkpoint: choice of the baseline's checkpoint.

    Raises:
        ConfigError: no resampler of the run has known source weights; or the baseline's pyramid has
            another resampler than the three with known weights, or its input has another size.
        CheckpointError: there is no run of this task in ``baseline``, or it cannot be read.
    """
    check_has_maps(loaded.config, run)
    if baseline is None:
        return MapDrawer(_network(loaded))
    config = RUNS.load_config(baseline)
    for folder, each in ((run, loaded.config), (baseline, config)):
        upsampler = each.model.neck.upsampler
        if not has_known_upsampler(upsampler):
            raise ConfigError(
                "baseline and run must have one of the upsamplers 'carafe', 'nearest' and "
                f"'bilinear' in their pyramids, got {upsampler!r} in {printable(folder)}"
            )
    for name in _INPUT_FIELDS:
        value, expected = getattr(config.data, name), getattr(loaded.config.data, name)
        check(value == expected, f"data.{name} of the baseline", f"{expected!r} as in run", value)
    return MapDrawer(_network(loaded), _network(RUNS.load(baseline, checkpoint)))


def check_has_maps(config: DetectionConfig, run: Path) -> None:
    """Raises ``ConfigError`` if no resampler of a run has known source weights.

    Args:
        config: config of the run.
        run: folder of the run, for the message.
    """
    neck, backbone = config.model.neck.upsampler, config.model.backbone.downsampler
    if not has_known_upsampler(neck) and backbone != "carafe":
        raise ConfigError(
            "run must have 'carafe', 'nearest' or 'bilinear' in its pyramid "
            "(model.neck.upsampler), or 'carafe' in its backbone (model.backbone.downsampler), for "
            f"maps: the source weights of other resamplers are not known; got {neck!r} and "
            f"{backbone!r} in {printable(run)}"
        )


def has_known_upsampler(upsampler: str) -> bool:
    """Whether the source weights of a pyramid's upsampler are known.

    Args:
        upsampler: name of the upsampler.
    """
    return upsampler in KNOWN_UPSAMPLERS


def _network(loaded: LoadedRun[DetectionConfig]) -> Network:
    state = jax.device_put({name: loaded.state[name] for name in ("params", "model_state")})
    model = make_model(loaded.config)
    apply = functools.partial(jax.jit(functools.partial(observe, model)), state)
    config = loaded.config.model
    return Network(config.neck.upsampler, config.backbone.downsampler, apply)


def _up(network: Network, observed: Observed) -> Pathway:
    if observed.up is not None:
        return observed.up.of_image(0)
    sizes = [(level.shape[1], level.shape[2]) for level in observed.levels]
    return fixed_top_down(sizes, network.upsampler)


def _levels(observed: Observed) -> list[np.ndarray]:
    return [np.asarray(level[0], np.float32) for level in observed.levels]


def _instances(results: Sequence[Result], size: Size) -> Instances:
    """The instance map of detections: of their masks, or of their boxes if they have none."""
    masks = [
        decode_mask(result["segmentation"]["counts"], *size).astype(bool)
        for result in results
        if "segmentation" in result
    ]
    if len(masks) < len(results):
        masks = box_masks([result["bbox"] for result in results], size)
    return instance_map(masks, size)


def _targets(instances: Instances, pathway: Pathway, most: int) -> list[Target]:
    return choose_targets(instances, pathway.target_stride, pathway.target_size, most)
