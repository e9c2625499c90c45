import numpy as np
import pytest

from experiments.detection.evaluation.ground_truth import read_ground_truth
from tests.experiments.detection.evaluation.annotated import CATEGORIES, HEIGHT, WIDTH, record


class PartlyCorrupt(list):
    def __getitem__(self, index):
        if index == 1:
            raise RuntimeError("Corrupted block")
        return super().__getitem__(index)


def test_annotations_are_those_of_the_records_with_new_ids(capsys):
    records = [
        record(40, [[1, 2, 10.25, 20.125], [0, 0, 5, 5]], labels=[2, 0], areas=[77.5, 25]),
        record(9, []),
        record(12, [[3, 3, 0, 4]], labels=[1], crowds=[True], masks=False),
    ]
    truth = read_ground_truth(records, CATEGORIES)
    assert not capsys.readouterr().out
    np.testing.assert_array_equal(truth.image_ids, [40, 9, 12])
    np.testing.assert_array_equal(truth.category_ids, [3, 17, 90])
    assert sorted(truth.coco.imgs) == [9, 12, 40]
    assert truth.coco.imgs[9] == {"id": 9, "file_name": "9.jpg", "height": HEIGHT, "width": WIDTH}
    assert truth.coco.cats[17] == {"id": 17, "name": "cat"}
    assert sorted(truth.coco.anns) == [1, 2, 3]  # not 0, which pycocotools never matches
    first, crowd = truth.coco.anns[1], truth.coco.anns[3]
    counts = records[0]["objects"]["segmentation"][0]
    assert first == {
        "id": 1,
        "image_id": 40,
        "category_id": 90,
        "bbox": [1, 2, 10.25, 20.125],
        "area": 77.5,
        "iscrowd": 0,
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts},
    }
    assert crowd["iscrowd"] == 1
    assert crowd["bbox"] == [3, 3, 0, 4]
    assert "segmentation" not in crowd


def test_a_record_that_cannot_be_read_at_all_is_left_out():
    records = PartlyCorrupt([record(5, [[0, 0, 4, 4]]), None, record(6, [])])
    truth = read_ground_truth(records, CATEGORIES)
    np.testing.assert_array_equal(truth.image_ids, [5, -1, 6])
    assert sorted(truth.coco.imgs) == [5, 6]


def test_an_image_in_two_records_is_refused():
    with pytest.raises(ValueError, match=r"image_id.*\[5\]"):
        read_ground_truth([record(5, []), record(6, []), record(5, [])], CATEGORIES)
