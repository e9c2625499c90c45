import json

import pytest

from experiments.data.coco_annotations import Category, read_annotations
from experiments.data.errors import DataError
from tests.experiments.data.coco_folder import contents


@pytest.fixture
def written(tmp_path):
    """Returns a function that writes changed training annotations and returns their path."""

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


def test_everything_is_read_in_the_order_of_the_file(written):
    annotations = read_annotations(written())
    assert [image.id for image in annotations.images] == [13, 12, 11]
    assert 13 not in annotations.objects
    assert [found.id for found in annotations.objects[11]] == [903, 7]
    assert annotations.object_count == 6
    flat, outside = annotations.objects[12][2:]
    assert (flat.bbox, flat.area, flat.segmentation) == ((5, 5, 0, 4), 0, "")
    assert outside.bbox == (-50.5, 60, 20, 10)


def test_a_file_without_objects_is_read(written):
    path = written(lambda content: content.pop("annotations"))
    annotations = read_annotations(path, with_objects=False)
    assert len(annotations.images) == 3
    assert annotations.object_count == 0


def first(**fields):
    return lambda content: content["annotations"][0].update(fields)


def image(**fields):
    return lambda content: content["images"][0].update(fields)


def category(**fields):
    return lambda content: content["categories"][0].update(fields)


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
        (first(iscrowd=2), r"id 903.*iscrowd.* 0, 1.* 2$"),
        (first(segmentation=[[1, 2, 3, 4, 5]]), r"id 903.*polygon.* 5$"),
        (first(segmentation={"size": [60, 40], "counts": [2400]}), r"id 903.*size.*\[60, 40\]"),
        (first(id=8), r"annotation 8 "),
        (without("bbox"), r"id 903.*'bbox'.*\['area', 'category_id'"),
        (without("area"), r"id 903.*'area'"),
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
        (lambda content: content.update(images=[3]), r"images\[0\].* 3$"),
        (lambda content: content.update(images={}), r"images.* \{\}$"),
        (first(area=-1), r"id 903.*area.* -1$"),
        (first(area=1e11), r"id 903.*area.* 100000000000\.0$"),
        (first(area=float("nan")), r"id 903.*area.* nan"),
        (first(area=10**400), r"id 903.*area.* 1000.*\.\.\."),
        (first(area=True), r"id 903.*area.* True"),
        (first(bbox=[1, 2, 3, 10**400]), r"id 903.*bbox.* 1000.*\.\.\."),
        (first(bbox=[1e300, 2, 3, 4]), r"id 903.*bbox.* \[1e\+300"),
        (first(bbox=[1, 2, True, 4]), r"id 903.*bbox.* True"),
        (first(iscrowd="0"), r"id 903.*iscrowd.* '0'"),
        (first(iscrowd=0.0), r"id 903.*iscrowd.* 0\.0"),
        (first(iscrowd=None), r"id 903.*iscrowd.* None"),
        (first(id=2**63), r"annotations\[0\].*id.* 9223372036854775808$"),
        (first(id=True), r"annotations\[0\].*id.* True$"),
        (first(id=12.0), r"annotations\[0\].*id.* 12\.0$"),
        (first(image_id="11"), r"id 903.*image_id.* '11'$"),
        (first(category_id=-(2**63) - 1), r"id 903.*category_id.* -9223372036854775809$"),
        (image(id=2**63), r"images\[0\].*id.* 9223372036854775808$"),
        (image(id=10**4000), r"images\[0\].*id.* 1000.*\.\.\."),
        # In other places -1 means an image that cannot be read.
        (image(id=-1), r"images\[0\].*id.* -1$"),
        (image(height=True), r"height.* True$"),
        (image(height=2**31), r"height x width.* 400,000,000 .* 2147483648 x 60$"),
        (image(width=10**400), r"width.* 1000.*\.\.\."),
        (image(file_name="a\ud800.jpg"), r"file_name.*'a\\ud800\.jpg'"),
        (image(file_name="a\0.jpg"), r"file_name.*'a\\x00\.jpg'"),
        (image(file_name="../train/a.jpg"), r"file_name.*'\.\./train/a\.jpg'"),
        (image(file_name="a/../../b.jpg"), r"file_name.*'a/\.\./\.\./b\.jpg'"),
        (image(file_name="/data/a.jpg"), r"file_name.*'/data/a\.jpg'"),
        (image(file_name=""), r"file_name.* ''"),
        (image(file_name="./"), r"file_name.* '\./'"),
        (image(file_name="./000000000012.png"), r"file_name '000000000012\.png'.*twice"),
        (category(id=2**63), r"categories\[0\].*id.* 9223372036854775808$"),
        (category(name="\ud800"), r"categories\[0\].*name.*'\\ud800'"),
        (category(name=None), r"categories\[0\].*name.* None$"),
    ],
)
def test_malformed_entries_are_named(written, change, message):
    path = written(change)
    with pytest.raises(DataError, match=message) as error:
        read_annotations(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("value", "expected"), [(0, False), (True, True), (False, False), (1, True)]
)
def test_crowds_are_marked_by_numbers_or_booleans(written, value, expected):
    annotations = read_annotations(written(first(iscrowd=value)))
    assert annotations.objects[11][0].is_crowd is expected


def test_an_object_is_not_a_crowd_by_default(written):
    annotations = read_annotations(written(without("iscrowd")))
    assert annotations.objects[11][0].is_crowd is False


def test_an_object_without_segmentation_has_none(written):
    annotations = read_annotations(written(without("segmentation")))
    assert annotations.objects[11][0].segmentation == ""


def test_the_largest_ids_are_read(written):
    most = 2**63 - 1

    def change(content):
        content["images"][2]["id"] = content["categories"][2]["id"] = most
        del content["annotations"][1:]
        content["annotations"][0].update(id=most, image_id=most, category_id=most)

    annotations = read_annotations(written(change))
    assert annotations.images[2].id == annotations.categories[2].id == most
    assert annotations.objects[most][0].id == most


def test_file_names_may_have_folders_and_start_with_a_dot(written):
    def change(content):
        names = ("./a.jpg", "b//c/./d.jpg", "./e/f.jpg")
        for entry, name in zip(content["images"], names, strict=True):
            entry["file_name"] = name

    names = [each.file_name for each in read_annotations(written(change)).images]
    assert names == ["a.jpg", "b/c/d.jpg", "e/f.jpg"]


def test_a_byte_order_mark_is_skipped(written):
    path = written()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_annotations(path).images) == 3


def test_long_invalid_values_are_shortened_in_messages(written):
    deep = 3
    for _ in range(800):
        deep = [deep]
    for value in (deep, "a" * 100_000, list(range(100_000))):
        with pytest.raises(DataError, match=r"id 903.*area") as error:
            read_annotations(written(first(area=value)))
        assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"images": [', r"JSON.*Expecting value"),
        (b"\xff\xd8\xff", r"JSON"),
        (b"[1]", r"categories.* list$"),
        (b"[" * 100_000, r"nested"),
        (b'{"images": ' + b"9" * 5000 + b"}", r"digits"),
        (b'{"images": [], "categories": [], "images": []}', r"'images' twice"),
    ],
)
def test_an_invalid_file_is_named(tmp_path, content, message):
    path = tmp_path / "instances.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path}.*{message}"):
        read_annotations(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path}/none\.json.*No such file"):
        read_annotations(tmp_path / "none.json")
