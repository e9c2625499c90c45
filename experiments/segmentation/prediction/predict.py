"""Segments a user's own images, draws the classes, and writes them as label maps."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from experiments.data.picture_outputs import PictureOutputs
from experiments.data.pictures import open_picture, to_rgb
from experiments.data.record_images import resize_image
from experiments.engine.config import check
from experiments.engine.errors import InputError
from experiments.engine.predictions import predict_each, report
from experiments.engine.runs import LoadedRun
from experiments.engine.settings import CheckpointChoice
from experiments.engine.text import printable
from experiments.segmentation.configs import SegmentationConfig
from experiments.segmentation.data.config import DataConfig
from experiments.segmentation.data.shapes import check_scales, evaluation_size
from experiments.segmentation.evaluation.class_maps import class_map, is_finite
from experiments.segmentation.prediction.drawing import (
    Share,
    draw_classes,
    palette,
    percent,
    shares,
)
from experiments.segmentation.prediction.maps import MapDrawer, make_drawer
from experiments.segmentation.task import RUNS, make_model, read_class_names, segment

LABELS = "-labels.png"  # end of the names of label maps
_PRINTED = 5  # classes of each image

Infer = Callable[[UInt8[np.ndarray, "1 H W 3"]], Float[Array, "1 h w classes"]]


class Segmented(NamedTuple):
    """The classes in an image, and the files that were written.

    Attributes:
        drawing: file of the drawing.
        labels: file of the label map.
        shares: the classes of the image, the largest first.
        maps: files of the figures of source weights.
    """

    drawing: Path
    labels: Path
    shares: list[Share]
    maps: tuple[Path, ...] = ()


def segment_picture(
    image: Image.Image,
    infer: Infer,
    config: DataConfig,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> UInt8[np.ndarray, "height width"]:
    """Computes the class of each pixel of an image.

    Args:
        image: RGB image of any size.
        infer: function from images ``[1, H, W, 3]`` to logits. H and W are multiples of 32; the
            function is compiled for each shape.
        config: config of the data on which the network was trained; it defines the size to which
            the image is scaled.
        scales: factors of the size to which images are scaled; the views are averaged.
        flip: whether the mirrored images are further views.

    Returns:
        The class map, at the size of the image.

    Raises:
        InputError: the logits have values that are NaN or infinite.
    """
    views = []
    for scale in scales:
        size = evaluation_size(image.height, image.width, config, scale)
        pixels = resize_image(image, size)[None]
        views.append(infer(pixels))
        if flip:
            views.append(infer(pixels[:, :, ::-1])[:, :, ::-1])
    if not is_finite(views)[0]:
        raise InputError(
            "the network must give finite logits, got NaN or infinity: the parameters are broken, "
            "or the network overflows"
        )
    return class_map(views, 0, image.height, image.width).joined()


def predict(
    files: Sequence[Path],
    output: Path,
    infer: Infer,
    config: DataConfig,
    class_names: Sequence[str],
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    maps: MapDrawer | None = None,
) -> Iterator[tuple[Path, Segmented | InputError]]:
    """Segments image files, one after the other, and writes a drawing and a label map of each.

    The EXIF orientation of an image is applied, so the files have the size at which it is shown.

    Args:
        files: image files; a file that cannot be used does not stop the others.
        output: folder of the results. For ``NAME.jpg`` they are ``NAME.png``, the drawing, and
            ``NAME-labels.png``, a PNG with a palette whose indices are the numbers of the classes.
            Input files, and results of other images, are never overwritten.
        infer: function from images ``[1, H, W, 3]`` to logits ``[1, h, w, C]``; it is compiled for
            each shape.
        config: config of the data on which the network was trained; it defines the size to which
            images are scaled.
        class_names: names of the C classes.
        scales: factors of the size to which images are scaled; the views are averaged.
        flip: whether the mirrored images are further views.
        maps: drawer of the figures of source weights, which are written as ``NAME-KIND.png`` and
            show the first scale; None draws none.

    Yields:
        Each file when it is done, with its result or with its error.
    """
    outputs = PictureOutputs(files)

    def segment_file(path: Path) -> Segmented:
        drawing, labels = output / f"{path.stem}.png", output / f"{path.stem}{LABELS}"
        figures = {
            kind: output / f"{path.stem}-{kind}.png" for kind in (maps.kinds if maps else ())
        }
        image = to_rgb(open_picture(path, f"image {path}"))
        for target in (drawing, labels, *figures.values()):
            outputs.check(path, target)
        try:
            classes = segment_picture(image, infer, config, scales, flip)
            shown = {}
            if maps is not None:
                size = evaluation_size(image.height, image.width, config, scales[0])
                pixels = resize_image(image, size)[None]
                shown = maps(pixels, classes, printable(path.name))
        except InputError as error:
            raise InputError(f"image {path}: {error}") from error
        drawn = draw_classes(np.asarray(image), classes, class_names)
        outputs.write_indexed(path, labels, classes, palette())
        outputs.write(path, drawing, drawn)
        for kind, figure in shown.items():
            outputs.write(path, figures[kind], figure)
        return Segmented(drawing, labels, shares([classes]), tuple(figures.values()))

    return predict_each(files, segment_file)


def make_infer(loaded: LoadedRun[SegmentationConfig]) -> Infer:
    """A function from images to the logits of a run; it is compiled once for each shape."""
    # Copy the parameters to the device once, not with every image.
    state = jax.device_put({name: loaded.state[name] for name in ("params", "model_state")})
    model = make_model(loaded.config)
    return functools.partial(jax.jit(functools.partial(segment, model)), state)


def print_predictions(
    run: Path,
    images: Sequence[Path],
    output: Path,
    checkpoint: CheckpointChoice = "newest",
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    maps: bool = False,
) -> None:
    """Draws the classes in images, writes label maps, and prints the largest classes.

    Args:
        run: folder of the run.
        images: image files, at least one.
        output: folder for the drawings and the label maps.
        checkpoint: the newest checkpoint, or the best, which has the highest mIoU so far.
        scales: factors of the size of images in evaluation, at least one; the views are averaged.
        flip: whether the mirrored images are further views.
        maps: whether figures of source weights are drawn, too.

    Raises:
        CheckpointError: there is no run of this task in ``run``, or it cannot be read.
        ConfigError: ``images`` or ``scales`` is empty, or a scale is not positive and finite; or
            ``maps`` is true, and the run has no maps; see
            :func:`experiments.segmentation.pathways.check_has_pathways`.
        SystemExit: with code 2, after the last image, if any image could not be used.
    """
    check(bool(images), "images", "one or more", list(images))
    check_scales(scales)
    loaded = RUNS.load(run, checkpoint)
    names = read_class_names(run, loaded.config.data.classes)
    infer = make_infer(loaded)
    drawer = make_drawer(loaded, names) if maps else None
    predictions = predict(images, output, infer, loaded.config.data, names, scales, flip, drawer)
    report(predictions, functools.partial(show, names))


def show(names: Sequence[str], image: Path, segmented: Segmented) -> None:
    """Prints the files of an image and of its results, and the largest classes.

    Args:
        names: name of each class.
        image: image file.
        segmented: result of the image.
    """
    largest = [f"{names[number]} {percent(share)}" for number, share in segmented.shares[:_PRINTED]]
    if (rest := len(segmented.shares) - _PRINTED) > 0:
        largest.append(f"{rest} more")
    written = segmented.drawing, segmented.labels, *segmented.maps
    files = f"{image} -> {', '.join(map(str, written))}"
    print(printable(f"{files}: {', '.join(largest)}"))
