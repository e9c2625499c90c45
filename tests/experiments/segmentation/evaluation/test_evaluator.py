import json
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.classes import UNLABELLED
from experiments.engine.config import ConfigError
from experiments.engine.evaluation import NonFiniteEvaluationError, UnreadableEvaluationError
from experiments.segmentation.evaluation import evaluator as module
from experiments.segmentation.evaluation.confusion import segmentation_metrics
from experiments.segmentation.evaluation.evaluator import SegmentationEvaluator
from tests.experiments.segmentation.evaluation import fake_segmenter
from tests.experiments.segmentation.evaluation.fake_segmenter import (
    NAMES,
    SIZES,
    batches,
    encode,
    evaluator,
    make_records,
    slow_matrix,
)
from tests.experiments.segmentation.evaluation.interpolation import resized

ROOT = Path(__file__).parents[4]
STATE = jnp.float32(3)
ROUNDED = 4  # pixels that may have another class because float32 rounds a tie


@pytest.fixture(scope="module")
def records():
    return make_records()


@pytest.mark.parametrize(
    ("scales", "flip", "numbers"), [((1.0,), False, range(11)), ((0.5, 1.0), True, [0, 1, 2, 5])]
)
def test_the_matrix_counts_the_most_probable_classes_of_the_mean_of_all_views(
    records, scales, flip, numbers
):
    records = [records[number] for number in numbers]
    found = evaluator(records, scales=scales, flip=flip).matrix(STATE)
    wanted = slow_matrix(records, 3, scales, flip, resized)
    assert found.dtype == np.int64
    assert abs(found - wanted).sum() <= ROUNDED
    assert (wanted.sum(0) > 0).sum() >= 3  # several classes are predicted
    labelled = sum(int((fake_segmenter.decoded(r["label"]) != UNLABELLED).sum()) for r in records)
    assert found.sum() == labelled


def test_the_metrics_are_those_of_the_matrix_for_any_batch_size(records):
    right = evaluator(records).matrix(STATE)
    for batch_size in (4, 8):
        evaluate = evaluator(records, batch_size=batch_size)
        np.testing.assert_array_equal(evaluate.matrix(STATE), right)
        assert evaluate(STATE) == segmentation_metrics(right, NAMES)
    metrics = evaluator(records)(STATE)
    assert {"mIoU", "mIoU_present", "pixel_accuracy", "IoU/sky"} <= set(metrics)


@pytest.mark.parametrize("devices", [1, 2])
def test_the_matrix_does_not_depend_on_the_number_of_devices(records, devices, monkeypatch):
    right = evaluator(records).matrix(STATE)
    all_devices = jax.local_devices()
    monkeypatch.setattr(jax, "local_devices", lambda: all_devices[:devices])
    found = evaluator(records).matrix(STATE)
    np.testing.assert_array_equal(found, right)


def test_the_shares_of_two_processes_add_up_to_the_whole(records, monkeypatch):
    right = evaluator(records, batch_size=8).matrix(STATE)
    shares = [
        evaluator(records, batch_size=8, process=process, processes=2).matrix(STATE)
        for process in range(2)
    ]
    np.testing.assert_array_equal(np.sum(shares, axis=0), right)
    gathered = []

    def gather_bytes(payload):
        gathered.append(payload)
        return [payload, shares[1].tobytes() if payload == shares[0].tobytes() else b"[]"]

    monkeypatch.setattr(module, "gather_bytes", gather_bytes)
    first = evaluator(records, batch_size=8, process=0, processes=2)
    np.testing.assert_array_equal(first.matrix(STATE), right)
    assert gathered == [b"[]", shares[0].tobytes()]


def test_pixels_of_images_without_labels_are_not_counted(records):
    blank = [
        {**record, "label": encode(np.full(size, UNLABELLED, np.uint8))}
        for record, size in zip(records, SIZES, strict=True)
    ]
    some = [*records[:5], *blank[5:]]
    found = evaluator(some).matrix(STATE)
    np.testing.assert_array_equal(found, evaluator(records[:5]).matrix(STATE))
    with pytest.raises(ConfigError, match=r"dataset.*labelled pixel.*none"):
        evaluator(blank)(STATE)


def test_images_that_cannot_be_read_are_left_out(records, capsys):
    rest = [records[number] for number in range(11) if number not in (3, 6)]
    right = segmentation_metrics(evaluator(rest).matrix(STATE), NAMES)
    damaged = [*records]
    damaged[3] = {**records[3], "label": b"no picture"}
    evaluate = evaluator(damaged, max_unreadable_records=2, unreadable={6})
    assert evaluate(STATE) == {**right, "unreadable": 2}
    assert "[3, 6]" in capsys.readouterr().out
    with pytest.raises(UnreadableEvaluationError, match=r"^2 .* 1.*\[3, 6\]"):
        evaluator(damaged, max_unreadable_records=1, unreadable={6})(STATE)


def test_an_evaluation_without_readable_images_is_refused(records):
    everything = set(range(11))
    with pytest.raises(UnreadableEvaluationError, match=r"no record .*0, 1, .* 10\]"):
        evaluator(records, max_unreadable_records=11, unreadable=everything)(STATE)
    damaged = [{**record, "label": b"no picture"} for record in records]
    with pytest.raises(UnreadableEvaluationError, match=r"no record .*0, 1, .* 10\]"):
        evaluator(damaged, max_unreadable_records=11)(STATE)
    with pytest.raises(ConfigError, match=r"dataset .*batch.* 0"):
        evaluator([])
    with pytest.raises(ConfigError, match=r"class_names .*different.*sea.*sea"):
        SegmentationEvaluator(fake_segmenter.infer, batches(records), records, ("sea", "sea"))


def test_images_with_logits_that_are_not_finite_are_named(records):
    def infer(state, image):
        logits = fake_segmenter.infer(state, image)
        portrait = image.shape[1] > image.shape[2]
        return logits.at[:, 0, 0, 0].set(jnp.inf) if portrait else logits

    names = sorted(f"{n}.png" for n, (height, width) in enumerate(SIZES) if height > width)
    with pytest.raises(NonFiniteEvaluationError) as caught:
        evaluator(records, infer=infer)(STATE)
    assert f"finite logits, got NaN or infinity for {len(names)} images" in str(caught.value)
    assert str(names) in str(caught.value)


@pytest.mark.slow
def test_two_processes_have_the_same_metrics_and_matrix_as_one(tmp_path, records):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    program = "tests.experiments.segmentation.evaluation.fake_segmenter"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", program, str(tmp_path), str(process), "2", str(port)],
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
    alone = evaluator(records, max_unreadable_records=1, unreadable={6})
    right = {"metrics": alone(STATE), "matrix": alone.matrix(STATE).tolist()}
    for process in range(2):
        assert json.loads((tmp_path / f"{process}.json").read_text()) == right
