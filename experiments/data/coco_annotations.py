"""COCO's annotation files, `instances_*.json`, read and checked."""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from experiments.data.coco_masks import compressed_counts
from experiments.data.prepared import DataError


class Category(NamedTuple):
    """What an object may be; ids are those of COCO's files, which leave some out."""

    id: int
    name: str


class AnnotatedImage(NamedTuple):
    """An image of the list; height and width in pixels."""

    id: int
    file_name: str
    height: int
    width: int


class AnnotatedObject(NamedTuple):
    """An object in an image.

    Attributes:
        id: of the annotation.
        bbox: left, top, width and height, in pixels, as in the file.
        area: of the segmentation, in pixels, as in the file.
        label: place of its category in the order of ids, from 0 on.
        is_crowd: whether it stands for many that are too close to tell apart.
        segmentation: see :func:`experiments.data.coco_masks.compressed_counts`; ``""`` for none.
    """

    id: int
    bbox: tuple[float, float, float, float]
    area: float
    label: int
    is_crowd: bool
    segmentation: str


@dataclass(frozen=True)
class Annotations:
    """What an annotation file says.

    Attributes:
        path: of the file.
        categories: ordered by id.
        images: in the order of the file, also those without objects.
        objects: by the id of their image, in the order of the file; images without any are absent.
    """

    path: Path
    categories: tuple[Category, ...]
    images: tuple[AnnotatedImage, ...]
    objects: Mapping[int, Sequence[AnnotatedObject]]

    @property
    def object_count(self) -> int:
        """How many objects there are in all images."""
        return sum(map(len, self.objects.values()))


def read_annotations(path: Path, *, with_objects: bool = True) -> Annotations:
    """Reads an annotation file.

    Nothing is repaired and nothing left out: boxes of no area, or outside the image, stay.

    Args:
        path: of the JSON.
        with_objects: whether it lists objects; those of COCO's test images do not.

    Raises:
        DataError: it is missing, is no JSON, lacks a field, lists an image, category or annotation
            twice, has an annotation of an image or a category that it does not list, or one whose
            box or segmentation is malformed. The message names the file and the entry.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"the annotations {path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # also bytes that are no text
        raise DataError(f"{path} must be JSON: {error}") from error
    categories = [
        Category(_integer(entry, "id", where), _text(entry, "name", where))
        for where, entry in _entries(path, content, "categories")
    ]
    _check_unique(path, "category", [category.id for category in categories])
    categories.sort()
    images = [
        AnnotatedImage(
            _integer(entry, "id", where),
            _text(entry, "file_name", where),
            _integer(entry, "height", where, least=1),
            _integer(entry, "width", where, least=1),
        )
        for where, entry in _entries(path, content, "images")
    ]
    _check_unique(path, "image", [image.id for image in images])
    _check_unique(path, "file_name", [image.file_name for image in images])
    return Annotations(
        path,
        tuple(categories),
        tuple(images),
        _objects(path, content, categories, images) if with_objects else {},
    )


def _objects(
    path: Path, content: Any, categories: Sequence[Category], images: Sequence[AnnotatedImage]
) -> dict[int, list[AnnotatedObject]]:
    labels = {category.id: label for label, category in enumerate(categories)}
    image_of = {image.id: image for image in images}
    objects: dict[int, list[AnnotatedObject]] = {}
    ids = []
    for where, entry in _entries(path, content, "annotations"):
        ids.append(_integer(entry, "id", where))
        image_id = _integer(entry, "image_id", where)
        if image_id not in image_of:
            raise DataError(
                f"{where}: image_id must be that of one of the {len(images)} images, got "
                f"{image_id}: are the annotations of these images?"
            )
        category_id = _integer(entry, "category_id", where)
        if category_id not in labels:
            raise DataError(
                f"{where}: category_id must be one of {sorted(labels)}, got {category_id}"
            )
        image = image_of[image_id]
        try:
            counts = compressed_counts(entry.get("segmentation", []), image.height, image.width)
        except ValueError as error:
            raise DataError(f"{where}: {error}") from error
        objects.setdefault(image_id, []).append(
            AnnotatedObject(
                ids[-1],
                _box(entry, where),
                _finite(_value(entry, "area", where), "area", where),
                labels[category_id],
                bool(_integer(entry, "iscrowd", where, choices=(0, 1))),
                counts,
            )
        )
    _check_unique(path, "annotation", ids)
    return objects


def _entries(path: Path, content: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        keys = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{path} must have a list of {name}, got {keys}")
    for place, entry in enumerate(entries):
        yield f"{path}: {name}[{place}], id {entry.get('id')!r}", entry


def _value(entry: Mapping[str, Any], name: str, where: str) -> Any:
    try:
        return entry[name]
    except KeyError:
        raise DataError(f"{where}: must have {name!r}, got {sorted(entry)}") from None


def _integer(
    entry: Mapping[str, Any],
    name: str,
    where: str,
    least: int | None = None,
    choices: Collection[int] | None = None,
) -> int:
    value = _value(entry, name, where)
    in_range = (least is None or value >= least) if isinstance(value, int) else False
    if not in_range or (choices is not None and value not in choices):
        expected = f"one of {list(choices)}" if choices else "an integer"
        bound = "" if least is None else f" of at least {least}"
        raise DataError(f"{where}: {name} must be {expected}{bound}, got {value!r}")
    return int(value)


def _text(entry: Mapping[str, Any], name: str, where: str) -> str:
    value = _value(entry, name, where)
    if not isinstance(value, str):
        raise DataError(f"{where}: {name} must be a text, got {value!r}")
    return value


def _finite(value: Any, name: str, where: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise DataError(f"{where}: {name} must be a finite number, got {value!r}")
    return float(value)


def _box(entry: Mapping[str, Any], where: str) -> tuple[float, float, float, float]:
    value = _value(entry, "bbox", where)
    if not isinstance(value, list) or len(value) != 4:
        raise DataError(f"{where}: bbox must be 4 numbers, got {value!r}")
    left, top, width, height = (_finite(number, f"bbox {value!r}: each", where) for number in value)
    if min(width, height) < 0:
        raise DataError(f"{where}: bbox must have no negative width or height, got {value!r}")
    return left, top, width, height


def _check_unique(path: Path, what: str, values: Sequence[int | str]) -> None:
    seen: set[int | str] = set()
    for value in values:
        if value in seen:
            raise DataError(f"{path}: {what} {value!r} must be listed once, it is listed twice")
        seen.add(value)
