"""Detects objects in a user's own pictures, draws them, and writes down what was found."""

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
from experiments.detection.data.config import DataConfig
from experiments.detection.data.images import bucket_shape, fit_image, is_portrait, resized_size
from experiments.detection.evaluation.results import Result, image_results
from experiments.detection.prediction.drawing import draw_detections
from experiments.detection.task import RUNS, detect, make_model, read_categories
from experiments.engine.config import check
from experiments.engine.errors import InputError
from experiments.engine.json_files import write_json
from experiments.engine.predictions import predict_each, report
from experiments.engine.settings import CheckpointChoice
from experiments.engine.text import encodable, printable

DETECTIONS = "detections.json"
DRAWN_FROM = 0.5  # scores of detections that are drawn

Infer = Callable[[UInt8[np.ndarray, "1 H W 3"], Int32[np.ndarray, "1 2"]], Mapping[str, Any]]


class Drawing(NamedTuple):
    """What was found in a picture, and where it is drawn.

    Attributes:
        output: the file that was written.
        results: all detections, with 0 as ``image_id``.
    """

    output: Path
    results: list[Result]


def detect_objects(
    image: Image.Image,
    infer: Infer,
    config: DataConfig,
    category_ids: Sequence[int],
) -> list[Result]:
    """Detects objects in a picture; the ``image_id`` of the results is 0.

    Args:
        image: RGB, of any size.
        infer: from images in a bucket, and height and width of what lies there, to detections; see
            :func:`experiments.detection.evaluation.results.image_results`. It meets two shapes, and
            so is compiled twice at most.
        config: of the data that the detector was trained on; lengths of the sides to which the
            picture is scaled.
        category_ids: by label.

    Raises:
        InputError: the detector gives values that are NaN or infinite.
    """
    portrait = is_portrait(image.height, image.width)
    size = resized_size(image.height, image.width, config, portrait)
    pixels = fit_image(image, size, bucket_shape(config, portrait))
    found = infer(pixels[None], np.array([size], np.int32))
    return image_results(
        {name: np.asarray(array)[0] for name, array in found.items()},
        np.array(size),
        np.array([image.height, image.width]),
        0,
        category_ids,
    )


def predict(
    files: Sequence[Path],
    output: Path,
    infer: Infer,
    config: DataConfig,
    categories: Sequence[Category],
) -> Iterator[tuple[Path, Drawing | InputError]]:
    """Detects objects in picture files, one after the other, and writes a drawing of each.

    After the last one ``detections.json`` is written, if any picture could be read, and also where
    the batch is broken off. For each of these it has ``file``, in which bytes that are no UTF-8 are
    escaped, ``height``, ``width`` and ``detections``, each with ``category``, ``category_id``,
    ``bbox`` (left, top, width and height in pixels), ``score`` and, with masks, ``segmentation``
    (COCO's run lengths). Coordinates are those of the picture turned as its orientation says.

    Args:
        files: of the pictures; one that cannot be used does not stop the others.
        output: folder for ``NAME.png`` of a picture ``NAME.jpg``; only detections with a score of
            at least one half are drawn. No input file is ever written to, nor is a drawing of
            another picture.
        infer: from images in a bucket, and height and width of what lies there, to detections. It
            meets two shapes, and so is compiled twice at most.
        config: of the data that the detector was trained on; lengths of the sides to which
            pictures are scaled.
        categories: by label.

    Yields:
        Each file, as it is done, with what was found in it, or with what is wrong.

    Raises:
        OSError: ``detections.json`` cannot be written.
    """
    category_ids = [category.id for category in categories]
    names = dict(categories)
    outputs = PictureOutputs(files)
    entries = []

    def draw(path: Path) -> Drawing:
        target = output / f"{path.stem}.png"
        image = to_rgb(open_picture(path, f"image {path}"))
        outputs.check(path, target)
        try:
            results = detect_objects(image, infer, config, category_ids)
        except InputError as error:
            raise InputError(f"image {path}: {error}") from error
        drawn = draw_detections(np.asarray(image), _drawn(results), names)
        outputs.write(path, target, drawn)
        entries.append(_entry(path, image, results, names))
        return Drawing(target, results)

    try:
        yield from predict_each(files, draw)
    finally:  # also of a batch that is broken off
        if entries:  # what an earlier call found is not lost to one that could read nothing
            write_json(output / DETECTIONS, entries)


def print_predictions(
    run: Path, images: Sequence[Path], output: Path, checkpoint: CheckpointChoice = "newest"
) -> None:
    """Draws the objects in images, writes them as JSON, and prints what is drawn.

    Args:
        run: folder of the run.
        images: files, at least one.
        output: folder for the drawings, of what has a score of 0.5 or more, and for
            ``detections.json``, which has all.
        checkpoint: the newest, or the one with the highest AP so far.

    Raises:
        CheckpointError: there is no run of this task in ``run``, or it cannot be read.
        ConfigError: ``images`` is empty.
        SystemExit: with code 2, after the last image, if any could not be used.
    """
    check(bool(images), "images", "one or more", list(images))
    loaded = RUNS.load(run, checkpoint)
    categories = read_categories(run, num_classes(loaded.config.data.source))
    # On the device once, rather than with every picture.
    state = jax.device_put({name: loaded.state[name] for name in ("params", "model_state")})
    model = make_model(loaded.config)
    infer = functools.partial(jax.jit(functools.partial(detect, model)), state)
    predictions = predict(images, output, infer, loaded.config.data, categories)
    report(predictions, functools.partial(show, dict(categories)))


def show(names: Mapping[int, str], picture: Path, drawing: Drawing) -> None:
    """Prints what is drawn of a picture, and where.

    Args:
        names: by category id.
        picture: its file.
        drawing: of the picture.
    """
    drawn = [
        f"{names[result['category_id']]} {result['score']:.2f}"
        for result in _drawn(drawing.results)
    ]
    nothing = f"nothing with a score of {DRAWN_FROM} or more"
    where = printable(f"{picture} -> {drawing.output}")
    print(f"{where}: {', '.join(drawn) or nothing}")


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
