"""Figures of where a segmenter reassembles its features from (Fig. 9)."""

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Int, UInt8

from experiments.engine.runs import LoadedRun
from experiments.segmentation.configs import SegmentationConfig
from experiments.segmentation.pathways import (
    Observed,
    check_has_pathways,
    has_down,
    has_up,
    observe,
)
from experiments.segmentation.task import make_model
from experiments.source_maps.figures import Pixels, pixels_of, sources_figure
from experiments.source_maps.instances import resized
from experiments.source_maps.pathways import BESIDE_DOWN, BESIDE_UP, CARAFE, Pathway, compared
from experiments.source_maps.targets import choose_targets

_TARGETS = 2  # of each kind


class MapDrawer:
    """Draws the figures of one image after the other.

    Args:
        config: config of the run.
        observe: function from an image ``[1, H, W, 3]`` to the pathways of the network.
        class_names: name of each class.

    Raises:
        ConfigError: the network has no pathway whose source weights are known.
    """

    def __init__(
        self,
        config: SegmentationConfig,
        observe: Callable[[UInt8[np.ndarray, "1 H W 3"]], Observed],
        class_names: Sequence[str],
    ) -> None:
        check_has_pathways(config.model)
        self._observe, self._names = observe, class_names
        self._upsampler = CARAFE if config.model.fpn == "carafe" else config.model.fpn
        self.kinds = [
            *["maps-up"] * has_up(config.model),
            *["maps-down"] * has_down(config.model),
        ]
        """Kinds of the figures that every image has."""

    def __call__(
        self,
        pixels: UInt8[np.ndarray, "1 H W 3"],
        class_map: UInt8[np.ndarray, "height width"],
        title: str,
    ) -> dict[str, Pixels]:
        """Draws the figures of an image.

        Args:
            pixels: image at the size at which the network reads it.
            class_map: predicted class of each pixel of the original image. Targets lie inside the
                regions of classes, at their borders, and in the largest region.
            title: first line of the titles.

        Returns:
            RGB pixels of each figure by its kind; see :attr:`kinds`.
        """
        observed = self._observe(pixels)
        numbers = resized(class_map.astype(np.int32), pixels.shape[1:3])
        draw = functools.partial(self._draw, pixels[0], numbers, title)
        figures = {}
        if observed.up is not None:
            figures["maps-up"] = draw(compared(observed.up, BESIDE_UP, self._upsampler))
        if observed.down is not None:
            figures["maps-down"] = draw(compared(observed.down, BESIDE_DOWN))
        return figures

    def _draw(
        self,
        image: Pixels,
        numbers: Int[np.ndarray, "height width"],
        title: str,
        pathways: dict[str, Pathway],
    ) -> Pixels:
        pathway = next(iter(pathways.values()))
        largest = int(np.bincount(numbers.ravel()).argmax())
        # Region ``n`` has number ``n + 1``, and the largest region 0.
        regions = np.where(numbers == largest, 0, numbers + 1)
        targets = choose_targets(regions, pathway.target_stride, pathway.target_size, _TARGETS)
        title = f"{title}, as the network reads it: {image.shape[1]}x{image.shape[0]} pixels"
        form = {"inside": "inside {}", "border": "border of {}", "background": "{}, largest"}
        headings = [
            form[target.kind].format(
                self._names[target.instance - 1 if target.instance else largest]
            )
            for target in targets
        ]
        return pixels_of(sources_figure(image, pathways, targets, title, headings))


def make_drawer(loaded: LoadedRun[SegmentationConfig], class_names: Sequence[str]) -> MapDrawer:
    """Makes the drawer of a run.

    Args:
        loaded: config and state of the run.
        class_names: name of each class.

    Raises:
        ConfigError: the network of the run has no pathway whose source weights are known.
    """
    check_has_pathways(loaded.config.model)
    state = jax.device_put({name: loaded.state[name] for name in ("params", "model_state")})
    model = make_model(loaded.config)
    apply = functools.partial(jax.jit(functools.partial(observe, model)), state)
    return MapDrawer(loaded.config, apply, class_names)
