import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.data.errors import DataError
from experiments.detection.data.object_masks import box_mask
from experiments.detection.data.objects import flipped, padded, scaled, training_objects
from tests.experiments.detection.fake_records import make_record, noise

PIXELS = noise(20, 30)


def test_boxes_are_corners_within_the_image():
    record = make_record(1, PIXELS, [[2, 3, 10.5, 4], [-5, -5, 10, 10], [25, 15, 50, 50]])
    found = training_objects(record, None)
    expected = [[2, 3, 12.5, 7], [0, 0, 5, 5], [25, 15, 30, 20]]
    np.testing.assert_array_equal(found["boxes"], expected)
    assert found["labels"].tolist() == [0, 1, 2]
    assert found.keys() == {"boxes", "labels", "crowd"}


def test_boxes_outside_the_image_or_below_a_pixel_are_left_out():
    boxes = [
        [3, 3, 0, 5],  # no area
        [3, 3, 5, 0],
        [31, 3, 5, 5],  # outside
        [3, -9, 5, 5],
        [29.5, 3, 5, 5],  # less than a pixel inside
        [3, 3, 0.9, 5],
        [3, 3, 1, 1],
        [29, 19, 5, 5],
    ]
    found = training_objects(make_record(1, PIXELS, boxes), None)
    assert found["labels"].tolist() == [6, 7]
    np.testing.assert_array_equal(found["boxes"], [[3, 3, 4, 4], [29, 19, 30, 20]])


def test_an_object_whose_segmentation_has_no_area_is_left_out():
    masks = [np.zeros((20, 30)), np.ones((20, 30))]
    record = make_record(1, PIXELS, [[3, 3, 5, 5], [5, 5, 9, 9]], masks=masks)
    record["objects"]["area"][0] = 0
    assert training_objects(record, None)["labels"].tolist() == [1]
    assert training_objects(record, 7)["masks"].all()


def test_crowds_are_kept_and_have_no_mask():
    mask = np.ones((20, 30))
    boxes = [[0, 0, 30, 20], [5, 5, 9, 9]]
    record = make_record(1, PIXELS, boxes, crowd=[True, False], masks=[mask, mask])
    found = training_objects(record, 7)
    assert found["crowd"].tolist() == [True, False]
    assert not found["masks"][0].any()
    assert found["masks"][1].all()
    record["objects"]["segmentation"][0] = ""
    assert training_objects(record, 7)["crowd"].tolist() == [True, False]


def test_masks_belong_to_their_boxes_also_if_other_objects_are_left_out():
    masks = np.random.default_rng(0).integers(0, 2, (3, 20, 30), dtype=np.uint8)
    boxes = [[1, 2, 20, 15], [4, 4, 0, 0], [10.5, 3.25, 30, 30]]
    found = training_objects(make_record(1, PIXELS, boxes, masks=masks), 9)
    for row, (mask, box) in enumerate(
        [(masks[0], [1, 2, 21, 17]), (masks[2], [10.5, 3.25, 30, 20])]
    ):
        np.testing.assert_array_equal(found["masks"][row], box_mask(mask, np.array(box), 9))


def test_an_object_without_a_segmentation_is_named():
    boxes = [[0, 0, 9, 9], [5, 5, 9, 9]]
    record = make_record(4, PIXELS, boxes, masks=[np.ones((20, 30)), None])
    with pytest.raises(DataError, match=r"object 4001.*image 4.*segmentation"):
        training_objects(record, 7)
    assert len(training_objects(record, None)["labels"]) == 2


def test_no_objects():
    for side in (None, 7):
        found = padded(flipped(training_objects(make_record(1, PIXELS, []), side), 30), 3)
        assert found["labels"].tolist() == [-1, -1, -1]
        assert found["boxes"].shape == (3, 4)
    assert found["masks"].shape == (3, 7, 7)


def test_padding():
    masks = np.ones((2, 20, 30))
    record = make_record(1, PIXELS, [[1, 2, 3, 4], [5, 6, 7, 8]], crowd=[False, True], masks=masks)
    found = padded(training_objects(record, 2), 4)
    types = {name: (array.shape, array.dtype) for name, array in found.items()}
    assert types == {
        "boxes": ((4, 4), np.float32),
        "labels": ((4,), np.int32),
        "crowd": ((4,), bool),
        "masks": ((4, 2, 2), np.uint8),
    }
    assert found["labels"].tolist() == [0, 1, -1, -1]
    assert found["crowd"].tolist() == [False, True, False, False]
    assert found["boxes"].tolist() == [[1, 2, 4, 6], [5, 6, 12, 14], [0] * 4, [0] * 4]
    assert found["masks"].any(axis=(1, 2)).tolist() == [True, False, False, False]


def test_300_objects_need_300_rows():
    record = make_record(1, PIXELS, [[n % 25, n % 17, 2, 2] for n in range(300)])
    objects = training_objects(record, None)
    assert padded(objects, 300)["labels"].tolist() == list(range(300))
    with pytest.raises(ValueError, match=r"max_objects.* 300.* 299$"):
        padded(objects, 299)


def test_scaling_by_hand():
    objects = training_objects(make_record(1, PIXELS, [[3, 4, 6, 8]]), None)
    found = scaled(objects, (20, 30), (40, 45))
    np.testing.assert_allclose(found["boxes"], [[4.5, 8, 13.5, 24]])


@given(seed=st.integers(0, 99), height=st.integers(1, 99), width=st.integers(1, 99))
def test_scaling_there_and_back(seed, height, width):
    rng = np.random.default_rng(seed)
    boxes = np.concatenate([rng.uniform(0, 9, (5, 2)), rng.uniform(2, 9, (5, 2))], axis=1)
    objects = training_objects(make_record(1, PIXELS, boxes), None)
    there = scaled(objects, (20, 30), (height, width))
    assert (there["boxes"] <= np.array([width, height] * 2)[None]).all()
    back = scaled(there, (height, width), (20, 30))
    np.testing.assert_allclose(back["boxes"], objects["boxes"])


def test_a_flip_mirrors_boxes_and_masks():
    # Mirroring annotations must result in the annotations of the mirrored image.
    mask = np.random.default_rng(0).integers(0, 2, (20, 30), dtype=np.uint8)
    record = make_record(1, PIXELS, [[3, 4, 11, 8]], masks=[mask])
    mirrored = make_record(1, PIXELS[:, ::-1], [[30 - 14, 4, 11, 8]], masks=[mask[:, ::-1]])
    found = flipped(training_objects(record, 5), 30)
    for name, array in training_objects(mirrored, 5).items():
        np.testing.assert_array_equal(found[name], array)
    twice = flipped(found, 30)
    for name, array in training_objects(record, 5).items():
        np.testing.assert_array_equal(twice[name], array)
