import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from experiments.data.classes import UNLABELLED
from experiments.engine.parallel import data_parallel, split
from experiments.engine.step import first_carry, guarded, initial_state, supervised_step
from experiments.models.input_config import InputConfig
from experiments.models.input_normalization import normalize
from experiments.segmentation.configs import LossConfig
from experiments.segmentation.losses import make_loss_function, reduce_labels
from experiments.segmentation.model.config import SegmenterConfig

CLASSES = 5
SHAPE = (4, 16, 24)


class Linear(nn.Module):
    """A network that is linear in the mean of each 4x4 block, and of each 8x8 block."""

    auxiliary: bool = False
    config: SegmenterConfig = SegmenterConfig()

    @nn.compact
    def layers(self, x, train=False):
        self.variable("batch_stats", "calls", lambda: jnp.zeros(()))
        maps = []
        for name, stride in (("main", 4), ("auxiliary", 8)):
            kernel = self.param(name, nn.initializers.normal(1.0), (3, CLASSES))
            blocks = nn.avg_pool(x, (stride, stride), (stride, stride))
            maps.append(jnp.einsum("bhwc,cd->bhwd", blocks, kernel))
        return maps[0], maps[1] if self.auxiliary else None


def batch_of(seed=0, unlabelled=0.3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, SHAPE, np.uint8)
    labels[rng.random(SHAPE) < unlabelled] = UNLABELLED
    size = np.array([[16, 24], [10, 24], [16, 7], [3, 5]], np.int32)
    for label, (height, width) in zip(labels, size, strict=True):
        label[height:] = UNLABELLED
        label[:, width:] = UNLABELLED
    return {
        "image": rng.integers(0, 256, (*SHAPE, 3), np.uint8),
        "size": size,
        "label": labels,
    }


def interpolated(logits, size):
    """Bilinear interpolation between pixel centres in float64, by loops over the targets."""
    for axis, target in zip((0, 1), size, strict=True):
        source = logits.shape[axis]
        rows = []
        for index in range(target):
            at = min(max((index + 0.5) * source / target - 0.5, 0), source - 1)
            low = int(at)
            high = min(low + 1, source - 1)
            left, right = np.take(logits, low, axis), np.take(logits, high, axis)
            rows.append((1 - (at - low)) * left + (at - low) * right)
        logits = np.stack(rows, axis)
    return logits


def cross_entropies(logits, labels):
    """Sum of the losses and number of right pixels, by loops in float64."""
    total, right = 0.0, 0
    for at in np.ndindex(labels.shape):
        if labels[at] != UNLABELLED:
            scores = logits[at]
            total += np.log(np.exp(scores - scores.max()).sum()) + scores.max()
            total -= scores[labels[at]]
            right += int(scores.argmax() == labels[at])
    return total, right


def expected(model, variables, batch, config):
    """Loss, accuracy and auxiliary loss, divided by the number of counted pixels."""
    image = normalize(batch["image"], InputConfig(), batch["size"])
    maps = model.apply(variables, image, method="layers", mutable=["batch_stats"])[0]
    totals, count = np.zeros(3), 0
    for number, labels in enumerate(batch["label"]):
        logits = np.asarray(maps[0][number], np.float64)
        if config.resolution == "labels":
            logits = interpolated(logits, labels.shape)
        else:
            labels = labels[2::4, 2::4]
        loss, right = cross_entropies(logits, labels)
        auxiliary = 0.0
        if maps[1] is not None:
            resized = interpolated(np.asarray(maps[1][number], np.float64), labels.shape)
            auxiliary, _ = cross_entropies(resized, labels)
        totals += loss + config.auxiliary_weight * auxiliary, right, auxiliary
        count += labels.size if config.average == "all" else (labels != UNLABELLED).sum()
    return totals / count


@pytest.mark.parametrize("auxiliary", [False, True])
@pytest.mark.parametrize(
    "config",
    [LossConfig(), LossConfig("labels", "all", 0.4), LossConfig("labels", "labelled", 0.7)],
    ids=["official", "mmseg", "labels"],
)
def test_the_loss_is_the_mean_over_the_pixels_of_all_devices(config, auxiliary):
    model, batch = Linear(auxiliary), batch_of()
    image = jnp.zeros((1, 16, 24, 3))
    variables = model.init(jax.random.key(0), image, method="layers")
    loss = make_loss_function(model, config)
    metrics = {}

    def collect(state, batch, key, number):
        sums = loss(state["params"], state["batch_stats"], batch, key)
        found = jax.lax.psum((sums.loss, sums.count, sums.metrics), "devices")
        return state, {"loss": found[0] / found[1]} | {
            name: value / found[1] for name, value in found[2].items()
        }

    step = data_parallel(guarded(collect, 0))
    carry = first_carry(variables, 0)
    _, metrics = step(carry, split(batch))
    total, accuracy, weighted = expected(model, variables, batch, config)
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], accuracy, rtol=1e-5)
    if auxiliary:
        np.testing.assert_allclose(metrics["auxiliary"], weighted, rtol=1e-5)
    else:
        assert "auxiliary" not in metrics


@pytest.mark.parametrize("config", [LossConfig(), LossConfig("labels", "labelled")])
def test_a_batch_without_a_labelled_pixel_has_a_loss_and_a_gradient_of_0(config):
    model, batch = Linear(True), batch_of(unlabelled=1.0)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 24, 3)), method="layers")
    rate = optax.constant_schedule(0.1)
    step = supervised_step(make_loss_function(model, config), optax.sgd(rate), rate)
    state = initial_state(variables["params"], variables["batch_stats"], optax.sgd(rate))
    carry, metrics = data_parallel(guarded(step, 0))(first_carry(state, 0), split(batch))
    assert metrics["loss"] == metrics["gradient_norm"] == metrics["accuracy"] == 0
    assert metrics["skipped"] == 0
    jax.tree.map(np.testing.assert_array_equal, carry.state["params"], variables["params"])


def test_the_loss_does_not_depend_on_the_padding():
    model, batch = Linear(), batch_of()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 24, 3)), method="layers")
    loss = make_loss_function(model, dataclasses.replace(LossConfig(), resolution="labels"))

    def total(image):
        changed = {**batch, "image": image}
        key = jax.random.key(0)
        return loss(variables["params"], variables["batch_stats"], changed, key).loss

    other = batch["image"].copy()
    for pixels, (height, width) in zip(other, batch["size"], strict=True):
        pixels[height:] = 255 - pixels[height:]
        pixels[:, width:] = 255 - pixels[:, width:]
    assert not np.array_equal(other, batch["image"])
    assert total(other) == total(batch["image"])  # padding is 0 after normalisation


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    data=st.data(),
)
def test_labels_are_reduced_to_the_nearest_centre(size, data):
    target = [data.draw(st.integers(1, side)) for side in size]
    labels = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    nearest = []
    for side, count in zip(size, target, strict=True):
        # In units of 1 / (2 * count) pixels, which are exact; the later of two equal distances.
        centres = (2 * np.arange(side) + 1) * count
        distance = np.abs(centres[None] - (2 * np.arange(count)[:, None] + 1) * side)
        nearest.append(side - 1 - distance[:, ::-1].argmin(axis=1))
    found = reduce_labels(labels[None], tuple(target))[0]
    np.testing.assert_array_equal(found, labels[np.ix_(*nearest)])


def test_labels_at_a_quarter_of_the_size_are_those_of_pillow():
    labels = np.random.default_rng(0).integers(0, 256, (32, 64), np.uint8)
    nearest = Image.fromarray(labels).resize((16, 8), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(reduce_labels(labels[None], (8, 16))[0], np.asarray(nearest))
    np.testing.assert_array_equal(labels[2::4, 2::4], np.asarray(nearest))
