import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.engine.checkpoints import CHECKPOINTS, steps_in
from experiments.engine.config import ConfigError
from experiments.engine.folders import DataFolders
from experiments.engine.monitoring.logs import read_metrics
from experiments.engine.optimization_config import OptimizerConfig, ScheduleConfig
from experiments.engine.parallel import data_parallel, split
from experiments.engine.step import first_carry, guarded
from experiments.inpainting.adversarial import alternating_step
from experiments.inpainting.configs import AdversarialConfig
from experiments.inpainting.data.batches import open_data, training_batches
from experiments.inpainting.fill import compose, variables_of
from experiments.inpainting.losses import (
    discriminator_loss,
    generator_loss,
    hole_shares,
    reconstruction,
)
from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.inpainting.model.generators import build_generator
from experiments.inpainting.model.patchgan import PatchGAN
from experiments.inpainting.model.patchgan_config import PatchGANConfig
from experiments.inpainting.presets import PRESETS, TABLE_10
from experiments.inpainting.task import RUNS, initial_state, make_optimizer
from tests.experiments.inpainting.tiny import TINY, train

pytestmark = pytest.mark.usefixtures("few_optimizations")

ROOT = Path(__file__).parents[3]

# Not Adam, whose first steps are the signs of the gradient, even of rounding errors.
DESCENT = dataclasses.replace(
    TINY,
    training=dataclasses.replace(
        TINY.training, optimizer=OptimizerConfig(name="sgd", learning_rate=0.1, momentum=0.0)
    ),
)
PLAIN = dataclasses.replace(
    TINY, model=GeneratorConfig(width=4, levels=1, norm="none"), ema_decay=0.0
)


@pytest.fixture(scope="module")
def data_dir(data_folder):
    return data_folder.parents[2]


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    """The folder of a run, and the run's last state."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    return folder, train(folder, data_dir)


def make_step(config):
    """The training step on a whole batch, over all devices."""
    step = data_parallel(
        guarded(alternating_step(config, *make_optimizer(config.training)), 0), True
    )
    return lambda carry, batch: step(carry, split(batch))


@pytest.fixture(scope="module")
def batch(data_folder):
    data = open_data(TINY.data, DataFolders(data_folder.parents[2], data_folder))
    batch = training_batches(data, TINY.data, 8, seed=0)[0]
    return {name: batch[name] for name in ("image", "mask")}


@pytest.mark.slow
def test_a_step_updates_the_discriminator_and_then_the_generator(batch):
    loss = "least_squares"  # not the default, to test that the config is used
    adversarial = dataclasses.replace(TINY.adversarial, loss=loss)
    config = dataclasses.replace(DESCENT, adversarial=adversarial, ema_decay=0.75)
    state = initial_state(config)
    carry, metrics = make_step(config)(first_carry(state, 0), batch)

    # The same step by hand, without devices: gradient descent on the whole batch.
    state = initial_state(config)
    generator, discriminator = state["generator"], state["discriminator"]
    network = build_generator(config.model, jnp.float32, None)
    judge = PatchGAN(adversarial.discriminator)
    image = batch["image"] / np.float32(127.5) - 1
    mask = batch["mask"].astype(np.float32)
    shares = hole_shares(mask, 4)

    def predict(params):
        variables = {"params": params, **generator["model_state"]}
        return network.apply(variables, image, mask, train=True, mutable=["batch_stats"])

    def logits(params, image):
        return judge.apply({"params": params}, jnp.concatenate([image, mask], axis=-1))

    filled = compose(image, mask, predict(generator["params"])[0])

    def of_discriminator(params):
        real, fake = logits(params, image), logits(params, filled)
        return discriminator_loss(real, fake, shares, loss).mean()

    def of_generator(params):
        prediction, changed = predict(params)
        filled = compose(image, mask, prediction)
        rebuilt = reconstruction(prediction, filled, image, mask, config.reconstruction)
        deceived = generator_loss(logits(judging, filled), shares, loss)
        return (rebuilt + 0.1 * deceived).mean(), changed

    def descend(params, gradient):
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)

    value, gradient = jax.jit(jax.value_and_grad(of_discriminator))(discriminator["params"])
    assert float(metrics["discriminator_loss"]) == pytest.approx(float(value), rel=1e-4)
    judging = descend(discriminator["params"], gradient)
    (value, changed), gradient = jax.jit(jax.value_and_grad(of_generator, has_aux=True))(
        generator["params"]
    )
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-4)
    assert float(metrics["gradient_norm"]) == pytest.approx(
        float(optax.tree.norm(gradient)), rel=1e-3
    )
    found = carry.state
    close = {"rtol": 1e-3, "atol": 1e-5}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **close),
        found["generator"]["model_state"],
        dict(changed),
    )
    for name, expected in (
        ("discriminator", judging),
        ("generator", descend(generator["params"], gradient)),
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, **close),
            found[name]["params"],
            expected,
        )
    jax.tree.map(
        # The decay is (1 + 0) / (10 + 0) in the first step, and at most 0.75 later.
        lambda mean, old, new: np.testing.assert_allclose(mean, 0.1 * old + 0.9 * new, **close),
        found["average"],
        variables_of({"generator": generator}),
        variables_of({"generator": found["generator"]}),
    )
    jax.tree.map(np.testing.assert_array_equal, variables_of(found), found["average"])


@pytest.mark.slow
def test_accumulation_over_parts_of_a_batch_equals_the_whole_batch(batch):
    whole = dataclasses.replace(PLAIN, training=DESCENT.training)
    halves = dataclasses.replace(DESCENT.training, accumulation=2)
    parts = dataclasses.replace(PLAIN, training=halves)
    found = [
        make_step(config)(first_carry(initial_state(config), 0), batch)[1]
        for config in (whole, parts)
    ]
    for name, value in found[0].items():
        assert float(found[1][name]) == pytest.approx(float(value), rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_without_a_weight_there_is_no_discriminator(batch):
    config = dataclasses.replace(PLAIN, adversarial=AdversarialConfig(weight=0.0))
    state = initial_state(config)
    assert state.keys() == {"generator"}
    _, metrics = make_step(config)(first_carry(state, 0), batch)
    assert not any("discriminator" in name or "adversarial" in name for name in metrics)


@pytest.mark.slow
@pytest.mark.parametrize("preset", TABLE_10[::3], ids=lambda preset: preset.name)
def test_the_first_and_the_last_row_learn_and_stay_finite(batch, preset):
    """The networks are narrow, and all options of a discriminator are used."""
    discriminator = PatchGANConfig(width=4, layers=2, spectral=True)
    config = dataclasses.replace(
        TINY,
        model=dataclasses.replace(preset.config.model, width=4),
        adversarial=AdversarialConfig(discriminator=discriminator),
    )
    step, carry, losses = make_step(config), first_carry(initial_state(config), 0), []
    for _ in range(60):
        carry, metrics = step(carry, batch)
        assert all(np.isfinite(value) for value in metrics.values())
        losses.append(float(metrics["reconstruction"]))
    assert losses[-1] < 0.6 * losses[0]
    assert int(carry.skipped) == 0


@pytest.mark.slow
def test_a_run_can_start_from_the_networks_of_another(run, data_dir, tmp_path):
    first, _ = run
    frozen = dataclasses.replace(TINY.model, freeze_encoder_norm=True)
    training = dataclasses.replace(TINY.training, schedule=ScheduleConfig(length=2))
    second = dataclasses.replace(TINY, model=frozen, training=training, start_from=str(first))
    found = train(tmp_path / "second", data_dir, second)["generator"]
    before = RUNS.load(first).state["generator"]
    kept = before["model_state"]["batch_stats"]["down_1"]["norm"]
    after = found["model_state"]["batch_stats"]["down_1"]["norm"]
    jax.tree.map(np.testing.assert_array_equal, after, kept)
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, found["params"], before["params"]))
    assert 0 < moved < 0.5 * optax.tree.norm(found["params"])

    wider = dataclasses.replace(second, model=dataclasses.replace(frozen, width=5))
    with pytest.raises(ConfigError, match=r"start_from.*model\.width: 4 -> 5"):
        train(tmp_path / "third", data_dir, wider)
    judge = dataclasses.replace(TINY.adversarial.discriminator, layers=1)
    other = dataclasses.replace(
        second, adversarial=dataclasses.replace(TINY.adversarial, discriminator=judge)
    )
    with pytest.raises(ConfigError, match=r"start_from.*discriminator\.layers: 2 -> 1"):
        train(tmp_path / "third", data_dir, other)


def test_presets_have_unique_names_that_agree_with_their_configs():
    names = [preset.name for preset in PRESETS]
    assert len(set(names)) == len(names)
    for preset in PRESETS:
        carafe = preset.name.endswith("carafe")
        model = preset.config.model
        assert (model.downsampler == "carafe") == carafe == (model.upsampler == "carafe")
        assert (model.convolution == "partial") == ("global-local" not in preset.name)
    paper = TABLE_10[0].config
    assert (paper.training.batch_size, paper.data.crop_side) == (32, 256)
    optimizer = paper.training.optimizer
    assert (optimizer.learning_rate, optimizer.b1, optimizer.b2) == (1e-4, 0.5, 0.9)


@pytest.mark.slow
def test_a_run_logs_both_losses_and_ends_with_an_evaluation(run):
    folder, _ = run
    lines = read_metrics(folder / "metrics.jsonl")
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 21))
    for line in steps:
        assert np.isfinite(line["loss"])
        assert np.isfinite(line["discriminator_loss"])
    assert lines[-1]["step"] == 20
    assert lines[-1][f"eval/{RUNS.best}"] > 0


@pytest.mark.slow
def test_a_killed_and_resumed_run_gives_the_same_numbers(run, data_dir, tmp_path):
    folder, state = run
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.experiments.inpainting.tiny", killed, data_dir]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 300
        while len(read_metrics(killed / "metrics.jsonl")) < 4 and time.monotonic() < deadline:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.01)
        process.kill()
    before = steps_in(killed / CHECKPOINTS)
    assert 0 < before[-1] < 20
    resumed = train(killed, data_dir)
    assert read_metrics(killed / "metrics.jsonl") == read_metrics(folder / "metrics.jsonl")
    jax.tree.map(np.testing.assert_array_equal, resumed, state)
