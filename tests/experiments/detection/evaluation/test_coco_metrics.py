import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from experiments.data.coco_annotations import Category
from experiments.detection.evaluation.coco_metrics import coco_metrics
from experiments.detection.evaluation.ground_truth import read_ground_truth
from experiments.detection.evaluation.metric_names import METRICS
from tests.experiments.detection.evaluation.annotated import (
    CATEGORIES,
    HEIGHT,
    WIDTH,
    perfect_results,
    record,
    result,
)

ONE = pytest.approx(1)  # pycocotools adds a tiny number to denominators
FIELDS = ("label", "bbox", "area", "is_crowd", "segmentation")
THRESHOLDS = np.linspace(0.5, 0.95, 10)

RECORDS = [
    record(11, [[5, 5, 20, 20], [40, 10, 10, 30]], labels=[0, 2]),
    record(4, []),
    record(30, [[0, 0, 80, 60]], labels=[0]),
]


def metrics(records, results, kind="bbox"):
    return coco_metrics(read_ground_truth(records, CATEGORIES).coco, results, kind)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_perfect_detections_have_ap_1_and_undefined_metrics_are_left_out(kind, capsys):
    found = metrics(RECORDS, perfect_results(RECORDS), kind)
    assert found == dict.fromkeys(set(METRICS) - {"AP_L", "AR_L"}, ONE)  # no object is large
    assert not capsys.readouterr().out
    huge = [record(11, [[5, 5, 20, 20]], areas=[96 * 96 + 1])]
    small = {"AP_S", "AP_M", "AR_S", "AR_M"}
    assert set(metrics(huge, perfect_results(huge), kind)) == set(METRICS) - small


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("shift", [1, 2, 3, 6, 9])
def test_shifted_detections_match_at_thresholds_below_their_iou(kind, shift):
    records = [record(number, [[10, 10 + number, 20, 16]]) for number in range(1, 6)]
    found = metrics(
        records, [result(number, [10 + shift, 10 + number, 20, 16]) for number in range(1, 6)], kind
    )
    iou = (20 - shift) / (20 + shift)
    assert found["AP"] == pytest.approx(np.mean(iou >= THRESHOLDS))
    assert found["AP50"] == pytest.approx(float(iou >= 0.5))
    assert found["AP75"] == pytest.approx(float(iou >= 0.75))


def iou_of(a, b):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def average_precision(objects, found, threshold):
    """AP of one category. ``objects`` has boxes by image; ``found`` has (image, box, score)."""
    hits, taken = [], set()
    for image, box, _ in sorted(found, key=lambda item: -item[2]):
        best, best_iou = None, threshold
        for number, other in enumerate(objects[image]):
            iou = iou_of(box, other)
            if (image, number) not in taken and iou >= best_iou:
                best, best_iou = (image, number), iou
        hits.append(best is not None)
        taken.add(best)
    total = sum(map(len, objects.values()))
    precisions, recalls = [], []
    for count in range(1, len(hits) + 1):
        precisions.append(sum(hits[:count]) / count)
        recalls.append(sum(hits[:count]) / total)
    interpolated = [
        max((p for p, r in zip(precisions, recalls, strict=True) if r >= recall), default=0)
        for recall in np.linspace(0, 1, 101)
    ]
    return np.mean(interpolated)


@given(seed=st.integers(0, 2**16), images=st.integers(1, 4))
def test_ap_agrees_with_a_plain_loop(seed, images):
    rng = np.random.default_rng(seed)

    def box():
        return [*rng.integers(0, 30, 2).tolist(), *rng.integers(4, 30, 2).tolist()]

    objects = {image: [box() for _ in range(rng.integers(1, 4))] for image in range(1, images + 1)}
    found = []
    for image, boxes in objects.items():
        for near in [*boxes, *boxes, box()]:
            jittered = (np.array(near) + rng.integers(-1, 2, 4)).clip(min=0).tolist()
            found.append((image, jittered, float(rng.random())))
    results = [result(image, bbox, score=score) for image, bbox, score in found]
    right = [average_precision(objects, found, threshold) for threshold in THRESHOLDS]
    measured = metrics([record(image, boxes) for image, boxes in objects.items()], results)
    assert measured["AP"] == pytest.approx(np.mean(right))
    assert measured["AP50"] == pytest.approx(right[0])
    assert measured["AP75"] == pytest.approx(right[5])


def coco_json(records):
    """The records in pycocotools' JSON format, with object ids from 1 on."""
    annotations = [
        {
            "image_id": record["image_id"],
            "category_id": CATEGORIES[label].id,
            "bbox": bbox.tolist(),
            "area": float(area),
            "iscrowd": int(crowd),
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts},
        }
        for record in records
        for label, bbox, area, crowd, counts in zip(
            *(record["objects"][name] for name in FIELDS), strict=True
        )
    ]
    return {
        "images": [{"id": each["image_id"], "height": HEIGHT, "width": WIDTH} for each in records],
        "categories": [category._asdict() for category in CATEGORIES],
        "annotations": [{"id": n, **each} for n, each in enumerate(annotations, start=1)],
    }


def own_stats(folder, records, results, kind):
    """The twelve metrics that pycocotools computes from JSON files."""
    (folder / "truth.json").write_text(json.dumps(coco_json(records)))
    drop = {"bbox": "segmentation", "segm": "bbox"}[kind]
    entries = [{key: result[key] for key in result.keys() - {drop}} for result in results]
    (folder / "results.json").write_text(json.dumps(entries))
    truth = COCO(folder / "truth.json")
    evaluation = COCOeval(truth, truth.loadRes(str(folder / "results.json")), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats.tolist()


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("areas", [(100, 2000, 9999), (100,), (2000, 9999)])
def test_all_metrics_equal_those_of_pycocotools(tmp_path, kind, areas):
    rng = np.random.default_rng(0)
    records, results = [], []
    for number in range(1, 7):
        boxes = np.stack([rng.integers(0, 40, 14), rng.integers(0, 30, 14)], -1)
        boxes = np.concatenate([boxes, rng.integers(6, 30, (14, 2))], -1)
        labels = rng.integers(0, 2, 14)
        records.append(
            record(
                number, boxes, labels, crowds=rng.random(14) < 0.1, areas=rng.choice(areas, size=14)
            )
        )
        for box, label in zip(boxes, labels.tolist(), strict=True):
            for _ in range(2):
                moved = (box + rng.integers(-2, 3, 4)).clip(min=0)
                results.append(result(number, moved, label, float(rng.random())))
    stats = own_stats(tmp_path, records, results, kind)
    expected = {name: stat for name, stat in zip(METRICS, stats, strict=True) if stat != -1}
    assert metrics(records, results, kind) == pytest.approx(expected)
    if len(areas) == 3:  # all are defined and different, so that swapped names are noticed
        assert len(set(expected.values())) == len(METRICS)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_recall_counts_the_best_detections_of_an_image_and_category(kind):
    records = [record(1, [[6 * column, 10, 5, 5] for column in range(12)])]
    right = perfect_results(records)
    found = metrics(records, right, kind)
    assert [found[name] for name in ("AR1", "AR10", "AR100")] == pytest.approx([1 / 12, 10 / 12, 1])
    # With a hundred better, wrong detections, the right ones are not among the best 100.
    wrong = [result(1, [0, 40, 9, 9], score=0.99)] * 100
    assert metrics(records, [*right, *wrong], kind)["AR100"] == 0
    assert metrics(records, [*right, *wrong[:88]], kind)["AR100"] == ONE


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_crowds_are_not_missed_and_detections_in_them_are_not_wrong(kind):
    records = [record(1, [[0, 0, 20, 20], [30, 0, 40, 40]], crowds=[False, True])]
    (right, _) = perfect_results(records)
    within = result(1, [35, 5, 10, 10], score=0.95)
    assert metrics(records, [right], kind)["AP"] == ONE
    assert metrics(records, [within, right], kind)["AP"] == ONE
    outside = result(1, [0, 45, 10, 10], score=0.95)
    assert metrics(records, [outside, right], kind)["AP"] == pytest.approx(0.5)


def test_category_ids_may_have_gaps():
    swapped = [
        {**entry, "category_id": 90 if entry["category_id"] == 3 else 3}
        for entry in perfect_results(RECORDS)
    ]
    assert metrics(RECORDS, swapped)["AP"] == 0


def test_ids_may_be_0_and_64_bits_long():
    most = 2**63 - 1
    categories = (Category(-5, "cup"), Category(0, "cat"), Category(most, "brush"))
    records = [
        record(image_id, [[5, 5, 20, 20], [40, 10, 10, 30], [60, 40, 9, 9]], labels=[0, 1, 2])
        for image_id in (0, most)
    ]
    results = [
        {**entry, "category_id": categories[number % 3].id}
        for number, entry in enumerate(perfect_results(records))
    ]
    truth = read_ground_truth(records, categories)
    for kind in ("bbox", "segm"):
        assert coco_metrics(truth.coco, results, kind)["AP"] == ONE


def test_detections_in_an_image_without_objects_are_wrong():
    records = [record(1, [[0, 0, 20, 20]]), record(2, [])]
    right = perfect_results(records)
    assert metrics(records, [*right, result(2, [0, 0, 20, 20], score=0.5)])["AP"] == ONE
    assert metrics(records, [*right, result(2, [0, 0, 20, 20], score=0.99)])["AP"] == pytest.approx(
        0.5
    )


def test_images_without_detections_are_missed():
    records = [record(number, [[0, 0, 20, 20]]) for number in range(1, 3)]
    # 51 of 101 recalls are reached, from 0 to 0.5.
    assert metrics(records, perfect_results(records)[:1])["AP"] == pytest.approx(51 / 101)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_ap_is_0_without_results_and_undefined_without_objects(kind):
    assert metrics(RECORDS, [], kind)["AP"] == 0
    assert metrics([record(1, [])], [result(1, [0, 0, 9, 9])], kind) == {}
    assert metrics([record(1, [])], [], kind) == {}


def test_the_size_of_an_object_is_the_area_of_its_mask_and_not_of_its_box():
    big = [record(1, [[0, 0, 80, 60]], areas=[4800])]
    (right,) = perfect_results(big)
    # A wrong mask of 100 pixels in a box of 4800 is small, so AP_M ignores it.
    wrong = {**result(1, [0, 0, 10, 10], score=0.99), "bbox": [0.0, 0.0, 80.0, 60.0]}
    assert metrics(big, [wrong, right], "segm")["AP_M"] == ONE


def test_results_are_not_changed():
    entries = perfect_results(RECORDS)
    before = [dict(entry) for entry in entries]
    metrics(RECORDS, entries, "bbox")
    metrics(RECORDS, entries, "segm")
    assert entries == before


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"image_id.*\[5\]"):
        metrics(RECORDS, [result(5, [0, 0, 9, 9])])
    with pytest.raises(ValueError, match=r"category_id.*\[1\]"):
        metrics(RECORDS, [{**result(4, [0, 0, 9, 9]), "category_id": 1}])
    boxes_only = [record(1, [[0, 0, 9, 9], [1, 1, 5, 5]], masks=False)]
    with pytest.raises(ValueError, match=r"ground_truth.* 2 of 2"):
        metrics(boxes_only, perfect_results(boxes_only), "segm")
    assert metrics(boxes_only, perfect_results(boxes_only))["AP"] == ONE
