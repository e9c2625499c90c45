"""Measures how much of a target's source weight lies in the region of the target's own class."""

import functools
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from experiments.data.classes import UNLABELLED
from experiments.data.errors import DataError
from experiments.data.record_images import resize_image
from experiments.engine.config import ConfigError, check
from experiments.engine.folders import DataFolders
from experiments.engine.settings import CheckpointChoice
from experiments.engine.text import printable
from experiments.segmentation.configs import SegmentationConfig
from experiments.segmentation.data.config import DataConfig, Split
from experiments.segmentation.data.datasets import open_data
from experiments.segmentation.data.shapes import evaluation_size
from experiments.segmentation.pathways import Observed, has_down, has_up, observe
from experiments.segmentation.prediction.compare import spread_examples
from experiments.segmentation.task import RUNS, make_model
from experiments.source_maps.instances import resized
from experiments.source_maps.own_object import Means, add_image
from experiments.source_maps.pathways import DOWNSAMPLERS, UPSAMPLERS, compared, from_each_level
from experiments.source_maps.report import NOTES, write_shares

_NOTES = (
    "An object is the region of a class in an image, of one or more parts. Unlabelled pixels "
    "belong to none.",
    *NOTES,
)


def measure_run(
    run: Path,
    output: Path,
    split: Split,
    images: int,
    folders: DataFolders,
    checkpoint: CheckpointChoice = "newest",
) -> None:
    """Measures a run on the labelled regions of a split, prints tables, and writes them.

    Args:
        run: folder of the run.
        output: folder for ``results.json`` and ``table.md``.
        split: split of the images.
        images: largest number of images, which are evenly spread over the split.
        folders: folders of the data.
        checkpoint: the newest checkpoint, or the best, which has the highest mIoU so far.

    Raises:
        CheckpointError: there is no run of this task in ``run``, or it cannot be read.
        ConfigError: the run has no CARAFE++ in UperNet's top-down pathway or in its backbone, or
            ``images`` is below 1.
        DataError: the dataset is missing, or has no labelled pixels.
    """
    check(images >= 1, "images", "at least 1", images)
    check_has_carafe(RUNS.load_config(run), run)
    loaded = RUNS.load(run, checkpoint)
    data = open_data(loaded.config.data, folders)
    examples = spread_examples(data.source(split), images)
    state = jax.device_put({name: loaded.state[name] for name in ("params", "model_state")})
    model = make_model(loaded.config)
    apply = functools.partial(jax.jit(functools.partial(observe, model)), state)
    measured = measure(loaded.config, apply, examples)
    if not measured:
        raise DataError(f"{data.folder} must have labelled pixels in {split}, got none")
    write_shares(measured, output, run, loaded.step, split, len(examples), _NOTES)


def check_has_carafe(config: SegmentationConfig, run: Path) -> None:
    """Raises ``ConfigError`` if a run has no CARAFE++ in its top-down pathway or its backbone.

    Args:
        config: config of the run.
        run: folder of the run, for the message.
    """
    model = config.model
    if not (_carafe_up(config) or has_down(model)):
        raise ConfigError(
            "run must have CARAFE++ in the top-down pathway of an upernet (model.fpn) or in its "
            f"backbone (model.backbone.downsampler), got {model.architecture} with {model.fpn!r} "
            f"and {model.backbone.downsampler!r} in {printable(run)}"
        )


def measure(
    config: SegmentationConfig,
    apply: Callable[[UInt8[np.ndarray, "1 H W 3"]], Observed],
    examples: Iterable[tuple[Image.Image, UInt8[np.ndarray, "height width"]]],
) -> dict[str, dict[str, Means]]:
    """Measures a network on images; it is compiled for each size.

    Args:
        config: config of the run.
        apply: function from an image to the pathways of the network; see
            :func:`experiments.segmentation.pathways.observe`.
        examples: images with their label maps.

    Returns:
        Means by the names of the pathway and of the method. Pathways without CARAFE++ are left out,
        and so are images without labelled pixels.
    """
    measured: dict[str, dict[str, Means]] = {}
    for image, label in examples:
        pixels, regions = _at_evaluation_size(image, label, config.data)
        if not regions.any():
            continue
        up, down = apply(pixels[None])
        if up is not None and _carafe_up(config):
            for pathway in from_each_level(up):
                means = measured.setdefault(pathway.name, {})
                add_image(means, compared(pathway, UPSAMPLERS), regions)
        if down is not None:
            means = measured.setdefault(down.name, {})
            add_image(means, compared(down, DOWNSAMPLERS), regions)
    return measured


def _carafe_up(config: SegmentationConfig) -> bool:
    return has_up(config.model) and config.model.fpn == "carafe"


def _at_evaluation_size(
    image: Image.Image, label: UInt8[np.ndarray, "height width"], config: DataConfig
) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of an image, and the numbers of its regions; 0 for unlabelled pixels."""
    size = evaluation_size(image.height, image.width, config)
    regions = np.where(label == UNLABELLED, 0, label.astype(np.int32) + 1)
    return resize_image(image, size), resized(regions, size)
