"""Detects objects in a user's own pictures, draws them, and writes down what was found."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from experiments.data.coco_annotations import Category
from experiments.data.pictures import PictureError, open_picture, to_rgb
from experiments.detection.data.config import DataConfig
from experiments.detection.data.images import bucket_shape, fit_image, is_portrait, resized_size
from experiments.detection.evaluation.results import Result, image_results
from experiments.detection.prediction.drawing import draw_detections
from experiments.engine.files import write_atomically, write_json

DETECTIONS = "detections.json"
DRAWN_FROM = 0.5  # scores of detections that are drawn

Infer = Callable[[UInt8[np.ndarray, "1 H W 3"], Int32[np.ndarray, "1 2"]], Mapping[str, Any]]


class InputError(ValueError):
    """A picture that cannot be used, or whose drawing cannot be written."""


class Prediction(NamedTuple):
    """What became of a picture.

    Attributes:
        picture: its file.
        outcome: the drawing that was written, or what is wrong.
        results: all detections, with the picture's place among the files as ``image_id``.
    """

    picture: Path
    outcome: Path | InputError
    results: list[Result]


def detect_objects(
    image: Image.Image,
    infer: Infer,
    config: DataConfig,
    category_ids: Sequence[int],
    image_id: int = 0,
) -> list[Result]:
    """Detects objects in a picture.

    Args:
        image: RGB, of any size.
        infer: from images in a bucket, and height and width of what lies there, to detections; see
            :func:`experiments.detection.evaluation.results.image_results`. It meets two shapes, and
            so is compiled twice at most.
        config: its shorter and longer count.
        category_ids: by label.
        image_id: that of the results.
    """
    portrait = is_portrait(image.height, image.width)
    size = resized_size(image.height, image.width, config, portrait)
    pixels = fit_image(image, size, bucket_shape(config, portrait))
    found = infer(pixels[None], np.array([size], np.int32))
    return image_results(
        {name: np.asarray(array)[0] for name, array in found.items()},
        np.array(size),
        np.array([image.height, image.width]),
        image_id,
        category_ids,
    )


def predict(
    files: Sequence[Path],
    output: Path,
    infer: Infer,
    config: DataConfig,
    categories: Sequence[Category],
) -> Iterator[Prediction]:
    """Detects objects in picture files, one after the other, and writes a drawing of each.

    After the last one ``detections.json`` is written, unless there is none: for each picture that
    could be read its
    ``file``, ``height``, ``width`` and ``detections``, each with ``category``, ``category_id``,
    ``bbox`` (left, top, width and height in pixels), ``score`` and, with masks, ``segmentation``
    (COCO's run lengths). Coordinates are those of the picture turned as its EXIF orientation says.

    Args:
        files: of the pictures; one that cannot be read does not stop the others.
        output: folder for ``NAME.png`` of a picture ``NAME.jpg``; only detections with a score of
            at least one half are drawn. No input file is ever written to, nor is a drawing of
            another picture.
        infer: see :func:`detect_objects`.
        config: see :func:`detect_objects`.
        categories: by label.

    Yields:
        For each file, as it is done, what became of it.

    Raises:
        OSError: ``detections.json`` cannot be written.
    """
    category_ids = [category.id for category in categories]
    names = dict(categories)
    written: list[Path] = []
    entries = []
    for number, path in enumerate(files):
        drawing = output / f"{path.stem}.png"
        results: list[Result] = []
        try:
            image = _read(path)
            if _is_among(drawing, files):
                raise InputError(f"image {path}: output {drawing} must be no input file")
            if _is_among(drawing, written):
                raise InputError(
                    f"image {path}: output {drawing} must be free, got that of an image before"
                )
            results = detect_objects(image, infer, config, category_ids, number)
            _write_drawing(drawing, path, image, results, names)
        except InputError as error:
            yield Prediction(path, error, results)
            continue
        written.append(drawing)
        entries.append(_entry(path, image, results, names))
        yield Prediction(path, drawing, results)
    if entries:  # what an earlier call found is not lost to one that could read nothing
        write_json(output / DETECTIONS, entries)


def report(predictions: Iterator[Prediction], names: Mapping[int, str]) -> None:
    """Tells of each prediction on the terminal: what was drawn, or what is wrong.

    Args:
        predictions: see :func:`predict`.
        names: by category id.

    Raises:
        SystemExit: with code 2, after the last one, if any failed.
    """
    failed = False
    nothing = f"nothing with a score of {DRAWN_FROM} or more"
    for picture, outcome, results in predictions:
        if isinstance(outcome, InputError):
            print(f"error: {outcome}", file=sys.stderr)
            failed = True
            continue
        drawn = [
            f"{names[result['category_id']]} {result['score']:.2f}" for result in _drawn(results)
        ]
        print(f"{picture} -> {outcome}: {', '.join(drawn) or nothing}")
    if failed:
        sys.exit(2)


def _read(path: Path) -> Image.Image:
    try:
        return to_rgb(open_picture(path, f"image {path}"))
    except PictureError as error:
        raise InputError(str(error)) from error


def _drawn(results: Sequence[Result]) -> list[Result]:
    return [result for result in results if result["score"] >= DRAWN_FROM]


def _write_drawing(
    drawing: Path,
    path: Path,
    image: Image.Image,
    results: Sequence[Result],
    names: Mapping[int, str],
) -> None:
    canvas = Image.fromarray(draw_detections(np.asarray(image), _drawn(results), names))
    try:
        write_atomically(drawing, lambda file: canvas.save(file, format="png"))
    except OSError as error:
        raise InputError(f"image {path}: output {drawing} cannot be written: {error}") from error


def _entry(
    path: Path, image: Image.Image, results: Sequence[Result], names: Mapping[int, str]
) -> dict[str, Any]:
    detections = []
    for result in results:
        kept = {key: value for key, value in result.items() if key != "image_id"}
        detections.append({"category": names[result["category_id"]], **kept})
    size = {"height": image.height, "width": image.width}
    return {"file": str(path), **size, "detections": detections}


def _is_among(path: Path, others: Sequence[Path]) -> bool:
    """Whether a file is there, and one of others; links and letter case give one several names."""
    # os.path takes what may not be looked at for missing; pathlib would raise.
    return os.path.exists(path) and any(
        os.path.exists(other) and os.path.samefile(path, other) for other in others
    )
