"""Detects objects in a user's own images, draws them, and writes them as JSON."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from experiments.data.classes import num_classes
from experiments.data.coco_annotations import Category
from experiments.data.picture_outputs import PictureOutputs
from experiments.data.pictures import open_picture, to_rgb
from experiments.data.record_images import fit_image
from experiments.detection.data.config import DataConfig
from experiments.detection.data.images import bucket_shape, is_portrait, resized_size
from experiments.detection.evaluation.results import Result, image_results
from experiments.detection.prediction.drawing import draw_detections
from experiments.detection.prediction.maps import MapDrawer, make_drawer
from experiments.detection.task import RUNS, detect, make_model, read_categories
from experiments.engine.config import check
from experiments.engine.errors import InputError
from experiments.engine.json_files import write_json
from experiments.engine.predictions import predict_each, report
from experiments.engine.settings import CheckpointChoice
from experiments.engine.text import encodable, printable

DETECTIONS = "detections.json"
DRAWN_FROM = 0.5  # lowest score of detections that are drawn

Infer = Callable[[UInt8[np.ndarray, "1 H W 3"], Int32[np.ndarray, "1 2"]], Mapping[str, Any]]


class Drawing(NamedTuple):
    """The detections in an image, and the files with their drawing.

    Attributes:
        output: file of the drawing.
        results: all detections; their ``image_id`` is 0.
        maps: files of the figures of source weights.
    """

    output: Path
    results: list[Result]
    maps: tuple[Path, ...] = ()


def detect_objects(
    image: Image.Image,
    infer: Infer,
    config: DataConfig,
    category_ids: Sequence[int],
) -> list[Result]:
    """Detects objects in an image; the ``image_id`` of the results is 0.

    Args:
        image: RGB image of any size.
        infer: function from images ``[1, H, W, 3]``, padded to a bucket, and their sizes
            ``[1, 2]``, height and width without the padding, to detections as in
            :func:`experiments.detection.evaluation.results.image_results`. There are two shapes of
            buckets, so it is compiled at most twice.
        config: config of the data on which the detector was trained; it defines the size to which
            the image is scaled.
        category_ids: COCO's category id of each label.

    Raises:
        InputError: the detector's output has values that are NaN or infinite.
    """
    pixels, size = network_input(image, config)
    found = infer(pixels, np.array([size], np.int32))
    return image_results(
        {name: np.asarray(array)[0] for name, array in found.items()},
        np.array(size),
        np.array([image.height, image.width]),
        0,
        category_ids,
    )


def network_input(
    image: Image.Image, config: DataConfig
) -> tuple[UInt8[np.ndarray, "1 H W 3"], tuple[int, int]]:
    """Resizes an image, and pads it to its bucket.

    Args:
        image: RGB image of any size.
        config: config of the data on which the detector was trained.

    Returns:
        The padded image, and the height and width of the image without the padding.
    """
    portrait = is_portrait(image.height, image.width)
    size = resized_size(image.height, image.width, config, portrait)
    return fit_image(image, size, bucket_shape(config, portrait))[None], size


def predict(
    files: Sequence[Path],
    output: Path,
    infer: Infer,
    config: DataConfig,
    categories: Sequence[Category],
    maps: MapDrawer | None = None,
) -> Iterator[tuple[Path, Drawing | InputError]]:
    """Detects objects in image files, one after the other, and writes a drawing of each.

    ``detections.json`` is written after the last image, or when the iteration is interrupted, if at
    least one image could be used. It has an entry for each of these images with the keys ``file``,
    in which bytes that are not UTF-8 are escaped, ``height``, ``width`` and ``detections``. Each
    detection has ``category``, ``category_id``, ``bbox`` (left, top, width and height in pixels),
    ``score`` and, with masks, ``segmentation`` (COCO's run lengths). Coordinates refer to the image
    after its EXIF orientation has been applied.

    Args:
        files: image files; a file that cannot be used does not stop the others.
        output: folder of the drawings; the drawing of ``NAME.jpg`` is ``NAME.png``. Only detections
            with a score of at least one half are drawn. Input files, and drawings of other images,
            are never overwritten.
        infer: function from images ``[1, H, W, 3]``, padded to a bucket, and their sizes
            ``[1, 2]``, height and width without the padding, to detections. There are two shapes of
            buckets, so it is compiled at most twice.
        config: config of the data on which the detector was trained; it defines the size to which
            images are scaled.
        categories: categories, indexed by label.
        maps: drawer of the figures of source weights, which are written as ``NAME-KIND.png``; None
            draws none.

    Yields:
        Each file when it is done, with its drawing or with its error.

    Raises:
        OSError: ``detections.json`` cannot be written.
    """
    category_ids = [category.id for category in categories]
    names = dict(categories)
    outputs = PictureOutputs(files)
    entries = []

    def draw(path: Path) -> Drawing:
        target = output / f"{path.stem}.png"
        figures = {
            kind: output / f"{path.stem}-{kind}.png" for kind in (maps.kinds if maps else ())
        }
        image = to_rgb(open_picture(path, f"image {path}"))
        for file in (target, *figures.values()):
            outputs.check(path, file)
        try:
            results = detect_objects(image, infer, config, category_ids)
            shown = {}
            if maps is not None:
                pixels, size = network_input(image, config)
                original = (image.height, image.width)
                shown = maps(pixels, size, _drawn(results), original, printable(path.name))
        except InputError as error:
            raise InputError(f"image {path}: {error}") from error
        drawn = draw_detections(np.asarray(image), _drawn(results), names)
        outputs.write(path, target, drawn)
        entries.append(_entry(path, image, results, names))
        for kind, figure in shown.items():
            outputs.write(path, figures[kind], figure)
        return Drawing(target, results, tuple(figures.values()))

    try:
        yield from predict_each(files, draw)
    finally:  # also if the iteration is interrupted
        if entries:  # otherwise keep the file of an earlier call
            write_json(output / DETECTIONS, entries)


def print_predictions(
    run: Path,
    images: Sequence[Path],
    output: Path,
    checkpoint: CheckpointChoice = "newest",
    maps: bool = False,
    baseline: Path | None = None,
) -> None:
    """Draws the objects in images, writes them as JSON, and prints the drawn detections.

    Args:
        run: folder of the run.
        images: image files, at least one.
        output: folder for the drawings, which show the detections with a score of 0.5 or more, and
            for ``detections.json``, which lists all detections.
        checkpoint: the newest checkpoint, or the best, which has the highest AP so far.
        maps: whether figures of source weights are drawn, too.
        baseline: folder of a run whose feature pyramid is drawn beside the run's; None for none.

    Raises:
        CheckpointError: there is no run of this task in ``run`` or in ``baseline``, or it cannot
            be read.
        ConfigError: ``images`` is empty, ``baseline`` is given without ``maps``, or a run has no
            maps; see :func:`experiments.detection.prediction.maps.make_drawer`.
        SystemExit: with code 2, after the last image, if any image could not be used.
    """
    check(bool(images), "images", "one or more", list(images))
    expected = "used with maps: it has no effect otherwise"
    check(maps or baseline is None, "baseline", expected, baseline and str(baseline))
    loaded = RUNS.load(run, checkpoint)
    categories = read_categories(run, num_classes(loaded.config.data.source))
    # Copy the parameters to the device once, not with every image.
    state = jax.device_put({name: loaded.state[name] for name in ("params", "model_state")})
    model = make_model(loaded.config)
    infer = functools.partial(jax.jit(functools.partial(detect, model)), state)
    drawer = make_drawer(loaded, run, baseline, checkpoint) if maps else None
    predictions = predict(images, output, infer, loaded.config.data, categories, drawer)
    report(predictions, functools.partial(show, dict(categories)))


def show(names: Mapping[int, str], image: Path, drawing: Drawing) -> None:
    """Prints the files of an image and of its drawing, and the drawn detections.

    Args:
        names: name of each category id.
        image: image file.
        drawing: drawing of the image.
    """
    drawn = [
        f"{names[result['category_id']]} {result['score']:.2f}"
        for result in _drawn(drawing.results)
    ]
    nothing = f"nothing with a score of {DRAWN_FROM} or more"
    written = ", ".join(map(str, (drawing.output, *drawing.maps)))
    files = printable(f"{image} -> {written}")
    print(f"{files}: {', '.join(drawn) or nothing}")


def _drawn(results: Sequence[Result]) -> list[Result]:
    return [result for result in results if result["score"] >= DRAWN_FROM]


def _entry(
    path: Path, image: Image.Image, results: Sequence[Result], names: Mapping[int, str]
) -> dict[str, Any]:
    detections = []
    for result in results:
        kept = {key: value for key, value in result.items() if key != "image_id"}
        detections.append({"category": names[result["category_id"]], **kept})
    size = {"height": image.height, "width": image.width}
    return {"file": encodable(path), **size, "detections": detections}
