import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine.config import ConfigError
from experiments.engine.evaluation import NonFiniteEvaluationError
from experiments.pyramid.batches import evaluation_batches
from experiments.pyramid.borders import border_pixels
from experiments.pyramid.evaluation import PyramidEvaluator

CLASSES = 13


def logits_of(maps):
    """Some of the channels of C2."""
    return maps[0][..., :CLASSES].astype(jnp.float32)


def make(features, infer=lambda state, maps: logits_of(maps)):
    return PyramidEvaluator(
        infer,
        evaluation_batches(features, 4, "validation"),
        features.count("validation"),
        features.class_names,
    )


def slow_matrices(features):
    """Confusion matrices of every scene, by loops over its pixels."""
    counts = np.zeros((2, features.count("validation"), CLASSES, CLASSES), np.int64)
    for group in features.groups["validation"]:
        for row, number in enumerate(group.numbers):
            example = group[row]
            label = example["label"]
            logits = logits_of(example["maps"])
            whole = jax.image.resize(logits, (*label.shape, CLASSES), "bilinear")
            found = np.asarray(whole.argmax(-1))
            near = border_pixels(label, 4)
            for at in np.ndindex(label.shape):
                counts[0, number, label[at], found[at]] += 1
                counts[1, number, label[at], found[at]] += near[at]
    return counts


def mean_iou(matrix):
    shares = []
    for name in range(CLASSES):
        union = matrix[name].sum() + matrix[:, name].sum() - matrix[name, name]
        shares.append(matrix[name, name] / union if union else 0.0)
    return np.mean(shares)


def test_every_scene_has_its_matrices(features):
    evaluator = make(features)
    found, right = evaluator.matrices({}), slow_matrices(features)
    for matrices, expected in zip(found, right, strict=True):
        assert matrices.dtype == np.int64
        np.testing.assert_array_equal(matrices, expected)
    metrics = evaluator({})
    whole, border = right.sum(axis=1)
    assert whole.sum() > border.sum() > 0
    assert metrics["mIoU"] == pytest.approx(mean_iou(whole))
    assert metrics["mIoU_border"] == pytest.approx(mean_iou(border))
    assert metrics["pixel_accuracy"] == pytest.approx(np.trace(whole) / whole.sum())
    assert "IoU/other" in metrics


def test_scenes_with_logits_that_are_not_finite_are_named(features):
    group = features.groups["validation"][0]
    bad = group[1]["maps"][0].astype(np.float32).sum()

    def infer(state, maps):
        logits = logits_of(maps)
        broken = jnp.isclose(maps[0].astype(jnp.float32).sum((1, 2, 3)), bad, rtol=1e-4)
        return logits.at[:, 0, 0, 0].set(jnp.where(broken, jnp.nan, 0))

    with pytest.raises(NonFiniteEvaluationError, match=rf"1 scenes, \[{group.numbers[1]}\]"):
        make(features, infer)({})


def test_a_split_without_scenes_is_refused(features):
    class Empty:
        def __len__(self):
            return 0

    with pytest.raises(ConfigError, match=r"dataset.*0"):
        PyramidEvaluator(lambda *_: None, Empty(), 0, features.class_names)


def test_padding_is_no_scene(features):
    batches = evaluation_batches(features, 8, "validation")
    records = np.concatenate([batches[index]["record"] for index in range(len(batches))])
    weights = np.concatenate([batches[index]["weight"] for index in range(len(batches))])
    np.testing.assert_array_equal(weights > 0, records >= 0)
    assert sorted(records[records >= 0]) == list(range(features.count("validation")))
