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
        (first(image_id=99), r"id 903.*image_id.* 99"),
        (first(category_id=1), r"id 903.*category_id.*\[2, 17, 90\].* 1$"),
        (first(bbox=[1, 2, 3]), r"id 903.*bbox.*\[1, 2, 3\]"),
        (first(bbox=[1, 2, float("nan"), 4]), r"id 903.*bbox.* nan"),
        (first(bbox=[1, float("inf"), 3, 4]), r"id 903.*bbox.* inf"),
        (first(bbox=[1, "2", 3, 4]), r"id 903.*bbox.* '2'"),
        (first(bbox=[1, 2, -3, 4]), r"id 903.*bbox.* -3"),
        (first(area="big"), r"id 903.*area.* 'big'"),
        (first(iscrowd=2), r"id 903.*iscrowd.*\[0, 1\].* 2$"),
        (first(segmentation=[[1, 2, 3, 4, 5]]), r"id 903.*polygon.* 5$"),
        (first(segmentation={"size": [60, 40], "counts": [2400]}), r"id 903.*size.*\[60, 40\]"),
        (first(id=8), r"annotation 8 "),
        (without("bbox"), r"id 903.*'bbox'.*\['area', 'category_id'"),
        (without("iscrowd"), r"id 903.*'iscrowd'"),
        (without("id"), r"annotations\[0\].*'id'"),
        (twice("images"), r"image 13 .*twice"),
        (twice("categories"), r"category 90 .*twice"),
        (
            lambda content: content["images"][0].update(
                file_name=content["images"][1]["file_name"]
            ),
            r"file_name '000000000012\.png'.*twice",
        ),
        (lambda content: content["images"][0].update(height=0), r"height.* 0$"),
        (lambda content: content["images"][0].update(width=2.5), r"width.* 2\.5$"),
        (lambda content: content["images"][0].update(file_name=3), r"file_name.* 3$"),
        (lambda content: content.pop("annotations"), r"annotations.*\['categories'"),
        (lambda content: content.update(images=[3]), r"images.*\['"),
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
        (b'{"images": [', r"JSON.*Expecting value"),
        (b"\xff\xd8\xff", r"JSON"),
        (b"[1]", r"categories.* list$"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path, content, message):
    path = tmp_path / "instances.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path}.*{message}"):
        read_annotations(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path}/none\.json.*No such file"):
        read_annotations(tmp_path / "none.json")
