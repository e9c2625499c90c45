import json

import numpy as np
import pytest
from pycocotools import mask as run_lengths

from experiments.detection.evaluation.results import image_results, results_for, write_results
from experiments.engine.errors import InputError

# pycocotools makes arrays in a way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def detections(boxes, **fields):
    count = len(boxes)
    return {
        "boxes": np.array(boxes, np.float32).reshape(count, 4),
        "scores": np.linspace(0.9, 0.3, count, dtype=np.float32),
        "labels": np.arange(count, dtype=np.int32) % 2,
        "valid": np.ones(count, bool),
        **fields,
    }


def full_masks(count):
    return np.ones((count, 28, 28), np.float32)


def results(found, size=(20, 30), original_size=(20, 30), image_id=7, category_ids=(1, 90)):
    return image_results(found, np.array(size), np.array(original_size), image_id, category_ids)


def test_each_axis_is_scaled_back_by_its_own_factor():
    found = results(detections([[3, 4, 9, 10]]), size=(20, 30), original_size=(41, 45))
    (entry,) = found
    assert entry["bbox"] == pytest.approx([3 * 1.5, 4 * 2.05, 6 * 1.5, 6 * 2.05])
    assert entry["image_id"] == 7
    assert entry["category_id"] == 1
    assert entry["score"] == float(np.float32(0.9))
    assert all(type(number) is float for number in [*entry["bbox"], entry["score"]])


def test_boxes_are_clipped_to_the_image():
    (inside,) = results(detections([[-3, -4, 900, 7]]))
    assert inside["bbox"] == [0, 0, 30, 7]


def test_boxes_without_area_in_the_image_are_left_out():
    outside = [[40, 5, 50, 9], [-9, 5, 0, 9], [3, 20, 9, 25], [3, 4, 3, 9], [9, 4, 3, 9]]
    found = detections([*outside, [3, 4, 9, 9]], masks=full_masks(6))
    (entry,) = results(found)
    assert entry["bbox"] == [3, 4, 6, 5]
    assert entry["score"] == pytest.approx(0.3)
    assert run_lengths.area(entry["segmentation"]) == 30


def test_invalid_detections_are_left_out_and_labels_become_category_ids():
    found = detections([[0, 0, 2, 2]] * 4, valid=np.array([True, False, False, True]))
    assert [entry["category_id"] for entry in results(found)] == [1, 90]
    assert [entry["score"] for entry in results(found)] == pytest.approx([0.9, 0.3])


@pytest.mark.parametrize(("name", "index"), [("scores", 0), ("scores", 1), ("boxes", 0)])
def test_detections_that_are_not_finite_are_refused(name, index):
    found = detections([[0, 0, 2, 2]] * 2, valid=np.array([True, False]))
    found[name][index] = np.nan
    with pytest.raises(InputError, match=r"finite.* NaN"):
        results(found)


def test_masks_are_pasted_into_the_original_image():
    found = detections([[10, 5, 20, 15]], masks=full_masks(1))
    (entry,) = results(found, size=(20, 30), original_size=(40, 90))
    mask = np.zeros((40, 90))
    mask[10:30, 30:60] = 1
    np.testing.assert_array_equal(run_lengths.decode(entry["segmentation"]), mask)


def test_a_mask_is_pasted_into_its_box_before_the_box_is_clipped():
    half = np.zeros((1, 28, 28), np.float32)
    half[:, :, 14:] = 1
    (entry,) = results(detections([[-10, 0, 10, 10]], masks=half))
    mask = np.zeros((20, 30))
    mask[:10, :10] = 1
    np.testing.assert_array_equal(run_lengths.decode(entry["segmentation"]), mask)


def test_files_are_lists_with_the_keys_for_the_server(tmp_path):
    entries = results(detections([[0, 0, 4, 4], [3, 3, 9, 9]], masks=full_masks(2)))
    files = write_results(tmp_path / "new", entries, masks=True)
    assert [file.name for file in files] == ["bbox.json", "segm.json"]
    boxes, masks = (json.loads(file.read_text()) for file in files)
    assert [set(entry) for entry in boxes] == [{"image_id", "category_id", "bbox", "score"}] * 2
    assert [set(entry) for entry in masks] == [
        {"image_id", "category_id", "segmentation", "score"}
    ] * 2
    assert boxes == results_for(entries, "bbox")
    (file,) = write_results(tmp_path / "none", [], masks=False)
    assert json.loads(file.read_text()) == []


def test_unknown_kinds_and_missing_masks_are_refused(tmp_path):
    entries = results(detections([[0, 0, 4, 4], [3, 3, 9, 9]]))
    with pytest.raises(ValueError, match=r"kind.*'keypoints'"):
        results_for(entries, "keypoints")
    with pytest.raises(ValueError, match=r"results.*segmentation.* 2 of 2"):
        write_results(tmp_path, entries, masks=True)
