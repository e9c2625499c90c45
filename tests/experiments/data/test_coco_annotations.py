import json

import pytest

from experiments.data.coco_annotations import Category, read_annotations
from experiments.data.prepared import DataError
from tests.experiments.data.coco_folder import contents


@pytest.fixture
def written(tmp_path):
    """Writes the training annotations after a change, and gives their path."""

    def write(change=lambda content: None):
        content = contents()["train"]
        change(content)
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return path

    return write


def test_categories_are_ordered_and_labels_count_them(written):
    annotations = read_annotations(written())
    assert annotations.categories == (
        Category(2, "cup"),
        Category(17, "cat"),
        Category(90, "brush"),
    )
    assert [found.label for found in annotations.objects[11]] == [1, 0]
    assert [found.label for found in annotations.objects[12]] == [2, 1, 1, 1]


def test_nothing_is_left_out_and_the_order_is_that_of_the_file(written):
    annotations = read_annotations(written())
    assert [image.id for image in annotations.images] == [13, 12, 11]
    assert 13 not in annotations.objects
    assert [found.id for found in annotations.objects[11]] == [903, 7]
    assert annotations.object_count == 6
    flat, outside = annotations.objects[12][2:]
    assert (flat.bbox, flat.area, flat.segmentation) == ((5, 5, 0, 4), 0, "")
    assert outside.bbox == (-50.5, 60, 20, 10)


def test_a_file_without_objects_is_read_as_such(written):
    path = written(lambda content: content.pop("annotations"))
    annotations = read_annotations(path, with_objects=False)
    assert len(annotations.images) == 3
    assert annotations.object_count == 0


def first(**fields):
    return lambda content: content["annotations"][0].update(fields)


def without(name):
    return lambda content: content["annotations"][0].pop(name)


def twice(name):
    return lambda content: content[name].append(content[name][0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first(image_id=99), r"id 903: image_id must be .* of the 3 images, got 99: are the anno"),
        (first(category_id=1), r"id 903: category_id must be one of \[2, 17, 90\], got 1"),
        (first(bbox=[1, 2, 3]), r"id 903: bbox must be 4 numbers, got \[1, 2, 3\]"),
        (first(bbox=[1, 2, float("nan"), 4]), r"id 903: bbox .* must be a finite number, got nan"),
        (first(bbox=[1, float("inf"), 3, 4]), r"must be a finite number, got inf"),
        (first(bbox=[1, "2", 3, 4]), r"must be a finite number, got '2'"),
        (first(bbox=[1, 2, -3, 4]), r"id 903: bbox must have no negative width or height"),
        (first(area="big"), r"id 903: area must be a finite number, got 'big'"),
        (first(iscrowd=2), r"id 903: iscrowd must be one of \[0, 1\], got 2"),
        (first(segmentation=[[1, 2, 3, 4, 5]]), r"id 903: a polygon must have an even number"),
        (first(segmentation={"size": [60, 40], "counts": [2400]}), r"id 903: size of the segm"),
        (first(id=8), r"annotation 8 must be listed once"),
        (without("bbox"), r"id 903: must have 'bbox', got \['area', 'category_id'"),
        (without("iscrowd"), r"must have 'iscrowd'"),
        (without("id"), r"annotations\[0\], id None: must have 'id'"),
        (twice("images"), r"image 13 must be listed once, it is listed twice"),
        (twice("categories"), r"category 90 must be listed once"),
        (
            lambda content: content["images"][0].update(
                file_name=content["images"][1]["file_name"]
            ),
            r"file_name '000000000012.png' must be listed once",
        ),
        (lambda content: content["images"][0].update(height=0), r"height must be an integer of at"),
        (lambda content: content["images"][0].update(width=2.5), r"width must be an integer of at"),
        (lambda content: content["images"][0].update(file_name=3), r"file_name must be a text"),
        (lambda content: content.pop("annotations"), r"must have a list of annotations, got \['c"),
        (lambda content: content.update(images=[3]), r"must have a list of images"),
    ],
)
def test_what_is_malformed_is_named(written, change, message):
    path = written(change)
    with pytest.raises(DataError, match=message) as error:
        read_annotations(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"images": [', r"must be JSON: Expecting value"),
        (b"\xff\xd8\xff", r"must be JSON: "),
        (b"[1]", r"must have a list of categories, got list"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path, content, message):
    path = tmp_path / "instances.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path} {message}"):
        read_annotations(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path}/none.json cannot be read: No such file"):
        read_annotations(tmp_path / "none.json")
