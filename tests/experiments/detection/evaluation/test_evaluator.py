import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.detection.data.batches import evaluation_batches
from experiments.detection.data.config import DataConfig
from experiments.detection.data.record_index import index_records
from experiments.detection.evaluation.coco_metrics import coco_metrics
from experiments.detection.evaluation.evaluator import DetectionEvaluator
from experiments.detection.evaluation.ground_truth import read_ground_truth
from experiments.detection.evaluation.results import results_for
from experiments.engine.config import ConfigError
from experiments.engine.evaluation import NonFiniteEvaluationError, UnreadableEvaluationError
from tests.experiments.detection.evaluation import fake_detector
from tests.experiments.detection.evaluation.annotated import CATEGORIES, perfect_results, result
from tests.experiments.detection.evaluation.fake_detector import evaluator, scenes
from tests.experiments.detection.fake_records import make_record, noise

ROOT = Path(__file__).parents[4]


def by_image(results):
    return sorted(results, key=lambda entry: entry["image_id"])


def shifted_results(records, shift):
    return [
        result(record["image_id"], bbox + np.array([shift, 0, 0, 0]), label, score)
        for record in records
        for bbox, label, score in zip(
            record["objects"]["bbox"],
            record["objects"]["label"].tolist(),
            np.linspace(0.9, 0.7, fake_detector.FOUND),
            strict=False,
        )
    ]


def test_perfect_detections_have_ap_1_for_any_batch_size():
    records = scenes()
    evaluate = evaluator(records)
    metrics = evaluate(jnp.float32(0))
    assert metrics["box_AP"] == pytest.approx(1)
    assert metrics["mask_AP"] == pytest.approx(1)
    assert {name for name in metrics if "/" not in name} == {"box_AP", "mask_AP"}
    assert metrics["box/AP50"] == metrics["mask/AP75"] == metrics["box/AP_S"] == pytest.approx(1)
    found, right = evaluate.results(jnp.float32(0)), by_image(perfect_results(records))
    assert len(found) == len(right)
    for entry, expected in zip(found, right, strict=True):
        assert entry["image_id"] == expected["image_id"]
        assert entry["category_id"] == expected["category_id"]
        assert entry["bbox"] == pytest.approx(expected["bbox"])
        assert entry["segmentation"] == expected["segmentation"]


def test_images_with_detections_that_are_not_finite_are_named():
    def detect(state, batch):
        found = fake_detector.detect(state, batch)
        empty = batch["count"] == 0
        return {**found, "scores": jnp.where(empty[:, None], jnp.nan, found["scores"])}

    records = scenes()
    ids = sorted(each["image_id"] for each in records if not len(each["objects"]["label"]))
    assert ids
    message = rf"finite.* for {len(ids)} images.*{re.escape(str(ids))}"
    with pytest.raises(NonFiniteEvaluationError, match=message):
        evaluator(records, detect=detect)(jnp.float32(0))


def test_detections_are_written_beside_the_metrics(tmp_path):
    evaluate = evaluator(scenes())
    metrics = evaluate(jnp.float32(1), tmp_path / "results")
    assert metrics == evaluate(jnp.float32(1))
    found = evaluate.results(jnp.float32(1))
    for kind in ("bbox", "segm"):
        written = json.loads((tmp_path / "results" / f"{kind}.json").read_text())
        assert written == results_for(found, kind)


def test_shifted_detections_have_the_same_ap_as_results_made_by_hand():
    records = scenes()
    metrics = evaluator(records)(jnp.float32(3))
    truth = read_ground_truth(records, CATEGORIES)
    for kind, name in (("bbox", "box"), ("segm", "mask")):
        right = coco_metrics(truth.coco, shifted_results(records, 3), kind)
        assert 0.1 < right["AP"] < 0.9
        assert metrics[f"{name}_AP"] == pytest.approx(right["AP"])
        for metric in set(right) - {"AP"}:
            assert metrics[f"{name}/{metric}"] == pytest.approx(right[metric])


def test_objects_in_unreadable_images_count_as_missed(capsys):
    records = scenes()
    metrics = evaluator(records, max_unreadable_records=1, unreadable={6})(jnp.float32(0))
    assert metrics["unreadable"] == 1
    readable = perfect_results([*records[:6], *records[7:]])
    truth = read_ground_truth(records, CATEGORIES)
    assert metrics["box_AP"] == pytest.approx(coco_metrics(truth.coco, readable, "bbox")["AP"])
    assert metrics["box_AP"] < 0.99
    assert "[6]" in capsys.readouterr().out
    with pytest.raises(UnreadableEvaluationError, match=r"^2 .* 1.*\[3, 6\]"):
        evaluator(records, max_unreadable_records=1, unreadable={6, 3})(jnp.float32(0))


def test_an_evaluation_without_readable_images_is_refused():
    everything = set(range(11))
    evaluate = evaluator(scenes(), max_unreadable_records=11, unreadable=everything)
    with pytest.raises(UnreadableEvaluationError, match=r"no record .*0, 1, .* 10\]"):
        evaluate(jnp.float32(0))
    with pytest.raises(ConfigError, match=r"dataset .*batch.* 0"):
        evaluator([])


def test_a_detector_that_finds_nothing_has_ap_0():
    def blind(state, batch):
        found = fake_detector.detect(state, batch)
        return {**found, "valid": jnp.zeros_like(found["valid"])}

    evaluate = evaluator(scenes(), detect=blind)
    metrics = evaluate(jnp.float32(0))
    assert metrics["box_AP"] == metrics["mask_AP"] == 0
    assert evaluate.results(jnp.float32(0)) == []


def find_the_middle(state, batch):
    """Detects one box in the middle of each image, half as wide and high as the image."""
    del state
    height, width = (batch["size"][:, axis].astype(jnp.float32) for axis in (0, 1))
    boxes = jnp.stack([width / 4, height / 4, 3 * width / 4, 3 * height / 4], -1)[:, None]
    one = jnp.ones(boxes.shape[:2])
    return {
        "boxes": boxes,
        "scores": one / 2,
        "labels": one.astype(jnp.int32),
        "valid": one > 0,
        "masks": jnp.ones((*one.shape, 28, 28)),
    }


def test_batches_of_records_in_both_buckets_are_evaluated():
    sizes = [(40, 60), (60, 40), (36, 52), (40, 40), (44, 16), (20, 92)]  # divisible by 4
    records = []
    for number, (height, width) in enumerate(sizes):
        mask = np.zeros((height, width), bool)
        mask[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = True
        box = [width / 4, height / 4, width / 2, height / 2]
        records.append(
            make_record(30 - number, noise(height, width), [box], labels=[1], masks=[mask])
        )
    config = DataConfig(shorter=50, longer=90)
    dataset = evaluation_batches(records, index_records(records), config, batch_size=4)
    truth = read_ground_truth(records, CATEGORIES)
    metrics = DetectionEvaluator(find_the_middle, dataset, truth, masks=True)(jnp.zeros(()))
    assert metrics["box_AP"] == pytest.approx(1)
    assert metrics["mask_AP"] == pytest.approx(1)


@pytest.mark.slow
def test_two_processes_have_the_same_results_and_ap_as_one(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    module = "tests.experiments.detection.evaluation.fake_detector"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(tmp_path), str(process), "2", str(port)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    alone = evaluator(scenes(), max_unreadable_records=1, unreadable={6})
    right = {"metrics": alone(jnp.float32(2)), "results": alone.results(jnp.float32(0))}
    for process in range(2):
        found = json.loads((tmp_path / f"{process}.json").read_text())
        assert found.pop("gathered") == ["", "ababab"]
        assert found == right
