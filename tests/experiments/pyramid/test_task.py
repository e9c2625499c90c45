import dataclasses
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine.config import ConfigError
from experiments.engine.errors import Interrupted
from experiments.engine.folders import Folders
from experiments.engine.interruption import Interruption
from experiments.engine.monitoring.logs import read_metrics
from experiments.engine.settings import Operation
from experiments.pyramid import task
from experiments.pyramid.example_sums import example_sums, metrics_of
from experiments.pyramid.task import RUNS, initial_state, loss_function, make_model, train_run
from tests.compilation import jit
from tests.experiments.pyramid.test_network import random_maps
from tests.experiments.pyramid.tiny import TINY, of_length, train

pytestmark = pytest.mark.usefixtures("few_optimizations")


@pytest.fixture(scope="module")
def run(tmp_path_factory, features, folders):
    """A run of four steps with CARAFE++, with a checkpoint after every second step."""
    folder = tmp_path_factory.mktemp("pyramid") / "run"
    train(folder, folders.data_dir, folders.cache, of_length(4), checkpoint_every=2)
    return folder


def numbers(folder):
    return [
        {name: value for name, value in line.items() if "seconds" not in name}
        for line in read_metrics(folder / "metrics.jsonl")
    ]


@pytest.mark.slow
def test_a_run_logs_its_loss_and_ends_with_an_evaluation(run):
    lines = numbers(run)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    last = lines[-1]
    assert 0 <= last["eval/mIoU_border"] <= 1
    assert 0 < last["eval/pixel_accuracy"] <= 1


@pytest.mark.slow
def test_equal_seeds_give_equal_numbers_and_others_do_not(run, folders, tmp_path):
    arguments = folders.data_dir, folders.cache
    train(tmp_path / "same", *arguments, of_length(4))
    assert numbers(tmp_path / "same") == numbers(run)
    train(tmp_path / "other", *arguments, of_length(4).with_training(seed=1))
    assert numbers(tmp_path / "other")[0]["loss"] != numbers(run)[0]["loss"]


@pytest.mark.slow
def test_a_run_that_is_interrupted_and_resumed_gives_the_same_numbers(
    run, folders, tmp_path, monkeypatch
):
    arguments = tmp_path / "run", folders.data_dir, folders.cache, of_length(4)
    with monkeypatch.context() as patch:
        received = {3: signal.SIGTERM}
        patch.setattr(Interruption, "requested", lambda self, number: received.get(number))
        with pytest.raises(Interrupted):
            train(*arguments)
    assert [line["step"] for line in numbers(tmp_path / "run")] == [1, 2, 3]
    train(*arguments)
    assert numbers(tmp_path / "run") == numbers(run)


@pytest.mark.slow
def test_the_sums_of_a_run_give_its_logged_metrics(run, features, folders):
    found = example_sums(RUNS.load(run), folders)
    scenes = features.count("validation")
    assert (list(found.groups), found.kind) == ([str(n) for n in range(scenes)], "scenes")
    logged = read_metrics(run / "metrics.jsonl")[-1]
    metrics = metrics_of({name: total[None] for name, total in found.totals.items()})
    assert set(metrics) == {"mIoU", "mIoU_border", "pixel_accuracy"}
    for name, (value,) in metrics.items():
        assert logged[f"eval/{name}"] == value


@pytest.mark.slow
def test_a_small_network_overfits_eight_scenes(features, folders, tmp_path, monkeypatch):
    group = max(features.groups["train"], key=len)
    few = dataclasses.replace(features, groups={"train": (group,), "validation": (group,)})
    monkeypatch.setattr(task, "open_features", lambda *_: few)
    monkeypatch.setattr(type(few), "count", lambda self, split: 1 + int(group.numbers[-1]))
    config = of_length(300).with_training(batch_size=8)
    model = dataclasses.replace(config.model, channels=32)
    train(tmp_path / "run", *dataclasses.astuple(folders), dataclasses.replace(config, model=model))
    last = read_metrics(tmp_path / "run/metrics.jsonl")[-1]
    assert last["eval/pixel_accuracy"] > 0.95
    assert last["eval/mIoU_present"] > 0.8


def test_the_loss_is_the_mean_cross_entropy_at_the_resolution_of_the_labels():
    nearest = dataclasses.replace(TINY.model, upsampler="nearest")
    config = dataclasses.replace(TINY, model=nearest)
    model, state = make_model(config), initial_state(config)
    rng = np.random.default_rng(0)
    label = rng.integers(0, 13, (2, 72, 96), np.uint8)
    label[0, :20] = 255
    batch = {"maps": random_maps(2, 72, 96), "label": label}
    key = jax.random.key(0)

    @jit
    def compute(params, model_state):
        variables = {"params": params, "batch_stats": model_state}
        logits, _ = model.apply(variables, batch["maps"], True, mutable=["batch_stats"])
        return loss_function(model, params, model_state, batch, key), logits

    sums, logits = compute(state["params"], state["model_state"])
    whole = np.asarray(jax.image.resize(logits, (2, 72, 96, 13), "bilinear"), np.float64)
    labelled = label != 255
    chosen = np.take_along_axis(whole, np.where(labelled, label, 0)[..., None].astype(int), -1)
    losses = np.log(np.exp(whole).sum(-1)) - chosen[..., 0]
    assert float(sums.loss) == pytest.approx(losses[labelled].sum(), rel=1e-5)
    assert float(sums.count) == labelled.sum()
    assert float(sums.metrics["accuracy"]) == ((whole.argmax(-1) == label) & labelled).sum()


@pytest.mark.slow
def test_every_parameter_has_a_gradient():
    model, state = make_model(TINY), initial_state(TINY)
    label = np.random.default_rng(0).integers(0, 13, (4, 72, 96), np.uint8)
    batch = {"maps": random_maps(4, 72, 96), "label": label}

    def loss(params):
        return loss_function(model, params, state["model_state"], batch, jax.random.key(0)).loss

    gradients = jit(jax.grad(loss))(state["params"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert jnp.abs(leaf).max() > 0, path


def test_a_bad_batch_size_is_reported_before_features_are_computed(tmp_path):
    with pytest.raises(ConfigError, match=r"batch_size.* 4 .* 6"):
        train_run(
            TINY.with_training(batch_size=6), tmp_path / "run", Folders(tmp_path), Operation()
        )


def test_the_best_checkpoint_has_the_highest_miou():
    assert RUNS.best == "mIoU"
    assert RUNS.config_type.task == "pyramid"
