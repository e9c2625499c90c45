"""Reads and validates the annotation files of COCO, `instances_*.json`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from experiments.data.coco_masks import FARTHEST, compressed_counts
from experiments.data.errors import DataError
from experiments.data.pictures import MAX_PIXELS
from experiments.engine.json_files import is_finite, is_int64, read_json
from experiments.engine.text import shown


class Category(NamedTuple):
    """A category of objects. The ids are as in COCO's files, which skip some numbers."""

    id: int
    name: str


class AnnotatedImage(NamedTuple):
    """An image of an annotation file.

    Attributes:
        id: id of the image, 0 or more.
        file_name: path relative to the folder of the images, without ``./``.
        height: height in pixels.
        width: width in pixels.
    """

    id: int
    file_name: str
    height: int
    width: int


class AnnotatedObject(NamedTuple):
    """An object in an image.

    Attributes:
        id: id of the annotation.
        bbox: left, top, width and height in pixels, as in the file.
        area: area of the segmentation in pixels, as in the file; 0 or more.
        label: index of the category in the order of ids, from 0 on.
        is_crowd: whether the annotation covers a group of objects that cannot be separated; False
            if the file does not say.
        segmentation: ``counts`` of a compressed run-length encoding of the whole image, in the
            format of ``pycocotools.mask``; ``""`` for none.
    """

    id: int
    bbox: tuple[float, float, float, float]
    area: float
    label: int
    is_crowd: bool
    segmentation: str


@dataclass(frozen=True)
class Annotations:
    """The content of an annotation file.

    Attributes:
        path: path of the file.
        categories: categories, ordered by id.
        images: images in the order of the file, including those without objects.
        objects: objects by the id of their image, in the order of the file; images without objects
            have no entry.
    """

    path: Path
    categories: tuple[Category, ...]
    images: tuple[AnnotatedImage, ...]
    objects: Mapping[int, Sequence[AnnotatedObject]]

    @property
    def object_count(self) -> int:
        """The number of objects in all images."""
        return sum(map(len, self.objects.values()))


def read_annotations(path: Path, *, with_objects: bool = True) -> Annotations:
    """Reads an annotation file.

    Nothing is corrected or left out: boxes without area or outside the image are kept. Only
    ``iscrowd`` and ``segmentation`` of an object may be missing, which means that it is no crowd
    and has no mask. Fields that training does not need, such as ``info``, are ignored.

    Args:
        path: path of the JSON file.
        with_objects: whether the file lists objects; files of COCO's test images do not.

    Raises:
        DataError: the file is missing or is not valid JSON; a field is missing, has another type or
            is out of range; an image, a category or an annotation is listed twice; an annotation
            refers to an image or a category that is not listed; or a box or segmentation is
            malformed. The message names the file and the entry.
    """
    try:
        content = read_json(path)
    except OSError as error:
        raise DataError(f"the annotations {path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # includes errors of the encoding
        raise DataError(f"{path} must be JSON: {error}") from error
    categories = sorted(parse_categories(path, _list(path, content, "categories")))
    images = [
        _image(entry, where)
        for where, entry in _entries(path, _list(path, content, "images"), "images")
    ]
    _check_unique(path, "image", [image.id for image in images])
    _check_unique(path, "file_name", [image.file_name for image in images])
    return Annotations(
        path,
        tuple(categories),
        tuple(images),
        _objects(path, content, categories, images) if with_objects else {},
    )


def parse_categories(path: Path, entries: Any) -> tuple[Category, ...]:
    """Validates a list of categories.

    Args:
        path: path of the file with the list, for error messages.
        entries: the list as it is in JSON; each entry has ``id`` and ``name``.

    Returns:
        The categories, in the order of the list.

    Raises:
        DataError: an entry is malformed, or two have the same id.
    """
    categories = tuple(
        Category(_integer(entry, "id", where), _text(entry, "name", where))
        for where, entry in _entries(path, entries, "categories")
    )
    _check_unique(path, "category", [category.id for category in categories])
    return categories


def _image(entry: Mapping[str, Any], where: str) -> AnnotatedImage:
    # -1 is reserved for records that cannot be read.
    image = AnnotatedImage(
        _integer(entry, "id", where, least=0),
        _file_name(entry, where),
        _integer(entry, "height", where, least=1),
        _integer(entry, "width", where, least=1),
    )
    if image.height * image.width > MAX_PIXELS:
        raise DataError(
            f"{where}: height x width must be at most {MAX_PIXELS:,} pixels, got {image.height} x "
            f"{image.width}"
        )
    return image


def _file_name(entry: Mapping[str, Any], where: str) -> str:
    name = _text(entry, "file_name", where)
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise DataError(
            f"{where}: file_name must be a path within the folder of the images, got {shown(name)}"
        )
    return str(path)


def _objects(
    path: Path, content: Any, categories: Sequence[Category], images: Sequence[AnnotatedImage]
) -> dict[int, list[AnnotatedObject]]:
    labels = {category.id: label for label, category in enumerate(categories)}
    image_of = {image.id: image for image in images}
    objects: dict[int, list[AnnotatedObject]] = {}
    ids = []
    annotations = _list(path, content, "annotations")
    for where, entry in _entries(path, annotations, "annotations"):
        ids.append(_integer(entry, "id", where))
        image_id = _integer(entry, "image_id", where)
        if image_id not in image_of:
            raise DataError(
                f"{where}: image_id must be the id of one of the {len(images)} images, got "
                f"{image_id}: are the annotations of these images?"
            )
        category_id = _integer(entry, "category_id", where)
        if category_id not in labels:
            raise DataError(
                f"{where}: category_id must be one of {shown(sorted(labels))}, got {category_id}"
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
                _area(entry, where),
                labels[category_id],
                _is_crowd(entry, where),
                counts,
            )
        )
    _check_unique(path, "annotation", ids)
    return objects


def _list(path: Path, content: Any, name: str) -> Any:
    if not isinstance(content, dict) or name not in content:
        keys = shown(sorted(content)) if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{path} must have a list of {name}, got {keys}")
    return content[name]


def _entries(path: Path, entries: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(entries, list):
        raise DataError(f"{path}: {name} must be a list, got {shown(entries)}")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: {name}[{index}] must be an object, got {shown(entry)}")
        yield f"{path}: {name}[{index}], id {shown(entry.get('id'))}", entry


def _value(entry: Mapping[str, Any], name: str, where: str) -> Any:
    try:
        return entry[name]
    except KeyError:
        raise DataError(f"{where}: must have {name!r}, got {shown(sorted(entry))}") from None


def _integer(entry: Mapping[str, Any], name: str, where: str, least: int = -(2**63)) -> int:
    value = _value(entry, name, where)
    if not is_int64(value) or value < least:
        raise DataError(
            f"{where}: {name} must be an integer in {least}..{2**63 - 1}, got {shown(value)}"
        )
    return int(value)


def _text(entry: Mapping[str, Any], name: str, where: str) -> str:
    value = _value(entry, name, where)
    if not isinstance(value, str) or not _is_unicode(value):
        raise DataError(f"{where}: {name} must be a text that UTF-8 can hold, got {shown(value)}")
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON allows
        return False
    return True


def _is_crowd(entry: Mapping[str, Any], where: str) -> bool:
    value = entry.get("iscrowd", 0)
    if type(value) not in (int, bool) or value not in (0, 1):
        raise DataError(f"{where}: iscrowd must be 0, 1, false or true, got {shown(value)}")
    return bool(value)


def _area(entry: Mapping[str, Any], where: str) -> float:
    value = _value(entry, "area", where)
    # pycocotools would ignore objects with another area.
    if not is_finite(value) or not 0 <= value <= FARTHEST**2:
        raise DataError(f"{where}: area must be a number in 0..{FARTHEST**2}, got {shown(value)}")
    return float(value)


def _box(entry: Mapping[str, Any], where: str) -> tuple[float, float, float, float]:
    value = _value(entry, "bbox", where)
    if not isinstance(value, list) or len(value) != 4:
        raise DataError(f"{where}: bbox must be 4 numbers, got {shown(value)}")
    if not all(is_finite(number) and abs(number) <= FARTHEST for number in value):
        raise DataError(
            f"{where}: bbox must be 4 numbers within {FARTHEST} pixels, got {shown(value)}"
        )
    left, top, width, height = map(float, value)
    if min(width, height) < 0:
        raise DataError(f"{where}: bbox must have no negative width or height, got {value!r}")
    return left, top, width, height


def _check_unique(path: Path, what: str, values: Sequence[int | str]) -> None:
    seen: set[int | str] = set()
    for value in values:
        if value in seen:
            raise DataError(
                f"{path}: {what} {shown(value)} must be listed once, it is listed twice"
            )
        seen.add(value)
