import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.engine.config import ConfigError
from experiments.engine.guard import first_carry, guarded
from experiments.engine.optimization import OptimizerConfig, ScheduleConfig
from experiments.engine.parallel import data_parallel, split
from experiments.engine.settings import TrainingConfig
from experiments.inpainting.batches import (
    evaluation_batches,
    to_bytes,
    to_unit,
    training_batches,
    validation_examples,
)
from experiments.inpainting.configs import DataConfig, InpaintingConfig
from experiments.inpainting.metrics import image_metrics
from experiments.inpainting.task import (
    compose,
    evaluate,
    fill,
    initial_state,
    make_model,
    train_step,
)
from experiments.models.unet import UNetConfig

SMALL = InpaintingConfig(
    model=UNetConfig("carafe", "carafe", (4, 6)),
    data=DataConfig(crop_side=16),
    training=TrainingConfig(
        batch_size=8,
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-2, b1=0.5, b2=0.9),
        schedule=ScheduleConfig(length=40, warmup=2),
    ),
)


def make_step(config=SMALL):
    """The step on a whole batch, over all devices."""
    step = data_parallel(guarded(train_step(config), 0))
    return lambda carry, batch: step(carry, split(batch))


@pytest.fixture(scope="module")
def batch(data_folder):
    batch = training_batches(data_folder, SMALL.data, 8, seed=0)[0]
    return {name: batch[name] for name in ("image", "mask")}


def test_bytes_and_the_unit_range_are_inverse():
    values = np.arange(256, dtype=np.uint8)
    assert to_unit(values).min() == -1
    assert to_unit(values).max() == 1
    np.testing.assert_array_equal(to_bytes(to_unit(values)), values)


def test_compose_keeps_what_is_seen():
    image, prediction = np.zeros((1, 1, 2, 3)), np.ones((1, 1, 2, 3))
    mask = np.array([0.0, 1.0]).reshape(1, 1, 2, 1)
    np.testing.assert_array_equal(compose(image, mask, prediction)[0, 0, :, 0], [0, 1])


def test_the_content_of_the_hole_has_no_influence(batch):
    model, params = make_model(SMALL), initial_state(SMALL)["params"]
    other = np.where(batch["mask"] > 0, 0.5, batch["image"])
    filled = [fill(model, params, image, batch["mask"]) for image in (batch["image"], other)]
    np.testing.assert_array_equal(*filled)
    assert np.abs(filled[0]).max() <= 1


def test_batches(data_folder, batch):
    assert batch["image"].shape == (8, 16, 16, 3)
    assert batch["mask"].shape == (8, 16, 16, 1)
    assert batch["image"].dtype == batch["mask"].dtype == np.float32
    assert set(np.unique(batch["mask"])) == {0, 1}
    assert np.abs(batch["image"]).max() <= 1
    again = training_batches(data_folder, SMALL.data, 8, seed=0)[0]
    other = training_batches(data_folder, SMALL.data, 8, seed=1)[0]
    np.testing.assert_array_equal(batch["image"], again["image"])
    np.testing.assert_array_equal(batch["mask"], again["mask"])
    assert (batch["image"] != other["image"]).any()


def test_the_step_over_four_devices_is_the_step_over_the_whole_batch(batch):
    model, state = make_model(SMALL), initial_state(SMALL)
    carry, metrics = make_step()(first_carry(state, 0), batch)

    def loss(params):
        filled = fill(model, params, batch["image"], batch["mask"])
        return jnp.abs(filled - batch["image"]).sum() / (3 * batch["mask"].sum())

    expected, gradients = jax.value_and_grad(loss)(state["params"])
    assert float(metrics["loss"]) == pytest.approx(float(expected), rel=1e-5)
    moment = optax.tree.get(carry["state"]["optimizer"], "mu")
    share = 1 - SMALL.training.optimizer.b1
    jax.tree.map(
        lambda mu, g: np.testing.assert_allclose(mu, share * g, rtol=1e-3, atol=1e-7),
        moment,
        gradients,
    )


def test_the_loss_falls(batch):
    step, carry, losses = make_step(), first_carry(initial_state(SMALL), 0), []
    for _ in range(40):
        carry, metrics = step(carry, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.6 * losses[0]


def test_evaluation_counts_every_example_once(data_folder):
    examples = validation_examples(data_folder, SMALL.data)[:11]  # an uneven last batch
    assert [b["weight"].sum() for b in evaluation_batches(examples, 8)] == [8, 3]
    params = initial_state(SMALL)["params"]
    metrics = evaluate(SMALL, params, examples)
    images, masks = (np.stack([e[name] for e in examples]) for name in ("image", "mask"))
    filled = fill(make_model(SMALL), params, images, masks)
    for name, values in image_metrics(filled, images, masks).items():
        assert metrics[name] == pytest.approx(float(values.mean()), rel=1e-5)


def test_validation_holes_are_the_same_for_every_model(data_folder):
    first, second = (validation_examples(data_folder, SMALL.data) for _ in range(2))
    assert len(first) == len(second) > 50
    np.testing.assert_array_equal(first[5]["mask"], second[5]["mask"])
    assert (first[5]["mask"] != first[6]["mask"]).any()


def test_processes_share_a_batch_and_draw_holes_of_their_own(data_folder, monkeypatch):
    whole = training_batches(data_folder, SMALL.data, 8, seed=0)[0]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for process in range(2):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        share = training_batches(data_folder, SMALL.data, 8, seed=0)[0]
        for name, array in share.items():
            np.testing.assert_array_equal(array, whole[name][process::2])


def test_a_crop_larger_than_any_is_refused():
    with pytest.raises(ConfigError, match=r"crop_side must be in 1\.\.96, got 128"):
        DataConfig(crop_side=128)
