import dataclasses
import functools

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from safetensors.numpy import save_file

from experiments.classification import convert as conversion
from experiments.classification import predict as prediction
from experiments.classification import task
from experiments.classification.batches import ClassificationData, open_data
from experiments.classification.configs import ClassificationConfig
from experiments.classification.convert import convert
from experiments.classification.data_config import DataConfig
from experiments.classification.images import decode_image, evaluation_crop
from experiments.classification.predict import classifier, load_classifier, predict
from experiments.classification.presets import SMALL
from experiments.classification.task import (
    RUNS,
    classify,
    initial_state,
    initial_variables,
    make_evaluator,
    train_step,
    training_state,
)
from experiments.data.errors import DataError
from experiments.engine.checkpoints import CheckpointError, steps_in
from experiments.engine.claim import is_converted
from experiments.engine.config import ConfigError
from experiments.engine.errors import InputError
from experiments.engine.folders import DataFolders
from experiments.engine.json_files import read_json
from experiments.engine.loop import UnreadableRecordsError
from experiments.engine.monitoring.logs import read_log, read_metrics
from experiments.engine.parallel import data_parallel, split
from experiments.engine.runs import LoadedRun
from experiments.engine.settings import EvaluationConfig
from experiments.engine.step import first_carry, guarded
from experiments.models.resnet_config import ResNetConfig
from tests.experiments.classification.tiny import TINY, train

pytestmark = pytest.mark.usefixtures("few_optimizations")


def of_length(steps):
    """Returns runs with the same step, which is compiled once."""
    schedule = dataclasses.replace(TINY.training.schedule, length=steps)
    training = dataclasses.replace(TINY.training, schedule=schedule)
    return dataclasses.replace(TINY, training=training)


class Linear(nn.Module):
    """A fast replacement for the ResNet, in tests of records."""

    config: ResNetConfig = ResNetConfig()

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(10)(x.reshape(x.shape[0], -1))


@pytest.fixture
def linear(monkeypatch):
    network = Linear()
    monkeypatch.setattr(task, "make_model", lambda config: network)
    return network


@pytest.fixture(scope="module")
def run(tmp_path_factory, digits_dir):
    folder = tmp_path_factory.mktemp("run") / "digits"
    train(folder, digits_dir, of_length(60))
    return folder


@pytest.mark.slow
def test_the_loss_falls_and_accuracy_rises(run):
    lines = read_metrics(run / "metrics.jsonl")
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert lines[-1]["eval/top1"] > 0.3  # three times the accuracy of guessing


@pytest.mark.slow
def test_prediction_prints_the_classes_of_the_dataset(run, digits_dir, tmp_path):
    source = tfds.builder_from_directory(digits_dir / "digits/1.0.0").as_data_source("validation")
    paths = []
    for index in range(40):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(source[index]["image"]).resize((90, 70)).save(paths[-1])
    paths[20].write_bytes(paths[20].read_bytes()[:100])
    results = dict(predict(run, paths))
    assert isinstance(results.pop(paths[20]), InputError)
    assert len(results) == 39  # an unreadable file does not stop the others
    right = sum(results[p][0].name == str(source[int(p.stem)]["label"]) for p in results)
    assert right > 0.3 * len(results)
    for guesses in results.values():
        assert len({guess.name for guess in guesses}) == 5
        chances = [guess.probability for guess in guesses]
        assert chances == sorted(chances, reverse=True)


@pytest.mark.slow
def test_a_run_saves_the_names_of_its_classes(run):
    assert load_classifier(run)[1] == tuple(str(digit) for digit in range(10))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('["a"]', "10 names.*'a'"),
        ('"0123456789"', "10 names.*'0123456789'"),
        ("[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]", "10 names.* 9"),
        ('{"a": 1}', "10 names.*'a': 1"),
    ],
)
def test_a_run_without_class_names_is_reported(text, message, tmp_path, monkeypatch):
    monkeypatch.setattr(type(RUNS), "load", lambda *_: LoadedRun(TINY, {}, 0))
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(CheckpointError, match=rf"classes\.json.*{message}"):
        load_classifier(tmp_path)


@pytest.mark.slow
def test_a_step_trains_every_part_of_the_network():
    """Uses strides, because CARAFE++ takes twice the time to compile and has its own tests."""
    model = dataclasses.replace(TINY.model, downsampler="strided")
    # Weight decay would change parameters without a gradient.
    optimizer = dataclasses.replace(TINY.training.optimizer, weight_decay=0.0)
    training = dataclasses.replace(TINY.training, optimizer=optimizer)
    config = dataclasses.replace(TINY, model=model, training=training)
    shapes = jax.eval_shape(lambda: initial_variables(config))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.uniform(-0.5, 1, leaf.shape).astype(np.float32), shapes
    )
    before = jax.device_get(training_state(config, variables))
    batch = {
        "image": rng.integers(0, 256, (8, 32, 32, 3), np.uint8),
        "label": rng.integers(0, 10, 8).astype(np.int32),
    }
    step = data_parallel(guarded(train_step(config, steps_per_epoch=10), 0))
    carry, metrics = step(first_carry(before, 0), split(batch))
    assert np.isfinite(metrics["loss"])
    assert int(metrics["skipped"]) == 0
    for kind in ("params", "model_state"):
        for name, part in jax.device_get(carry.state[kind]).items():
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(part)), name
            moved = jax.tree.map(lambda a, b: (a != b).any(), part, before[kind][name])
            assert any(jax.tree.leaves(moved)), name


def test_evaluation_is_exact_over_an_uneven_last_batch(digits_dir, linear):
    data = open_data(TINY.data, DataFolders(digits_dir))
    few = ClassificationData(data.train, [data.validation[i] for i in range(45)], data.class_names)
    state = initial_state(TINY)
    # The batch size is that of the evaluation, because four devices cannot share a training batch.
    config = TINY.with_training(batch_size=18)
    metrics = make_evaluator(config, few, EvaluationConfig(batch_size=16))(state)
    crops = [evaluation_crop(decode_image(each["image"]), TINY.data) for each in few.validation]
    label = np.array([each["label"] for each in few.validation])
    apply = jax.jit(functools.partial(classify, linear))
    logits = np.asarray(apply(state, np.stack(crops)), np.float64)
    order = np.argsort(-logits, axis=1)
    assert metrics["top1"] == pytest.approx((order[:, 0] == label).mean())
    assert metrics["top5"] == pytest.approx((order[:, :5] == label[:, None]).any(1).mean())
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.usefixtures("linear")
def test_an_unreadable_image_is_named_replaced_and_bounded(digits_dir, tmp_path, monkeypatch):
    whole = open_data(TINY.data, DataFolders(digits_dir))
    records = [dict(whole.train[index]) for index in range(48)]
    records[17]["image"] = records[17]["image"][:80]
    data = ClassificationData(records, records[:20], whole.class_names)
    monkeypatch.setattr(task, "open_data", lambda *_: data)
    train(tmp_path / "run", tmp_path, of_length(4))
    lines = read_metrics(tmp_path / "run/metrics.jsonl")
    found = read_log(tmp_path / "run/incidents.jsonl")
    assert [line["records"] for line in found] == [[17]] * len(found)
    assert lines[3]["unreadable"] == len(found) >= 1
    assert lines[-1]["eval/unreadable"] == 1  # it is left out of the evaluation
    with pytest.raises(UnreadableRecordsError, match=r"max_unreadable_records.* 0"):
        train(tmp_path / "strict", tmp_path, of_length(4), max_unreadable_records=0)


def test_a_batch_that_four_devices_cannot_share_is_reported(digits_dir, tmp_path):
    config = dataclasses.replace(TINY, training=dataclasses.replace(TINY.training, batch_size=18))
    with pytest.raises(ConfigError, match=r"batch_size.* 4 .* 18.*\[16, 20\]"):
        train(tmp_path / "run", digits_dir, config)
    assert not (tmp_path / "run").exists()


def test_missing_imagenet_is_reported_with_the_command_that_prepares_it(tmp_path):
    config = dataclasses.replace(TINY, data=DataConfig())
    with pytest.raises(DataError, match=r"nowhere.*experiments\.data\.imagenet"):
        train(tmp_path / "run", tmp_path / "nowhere", config)
    assert not (tmp_path / "run").exists()


def test_files_that_are_not_images_are_named_and_do_not_stop_others(tmp_path, monkeypatch, linear):
    monkeypatch.setattr(prediction, "make_model", lambda config: linear)
    run = LoadedRun(TINY, initial_state(TINY), 0)
    names = [str(digit) for digit in range(10)]
    monkeypatch.setattr(prediction, "load_classifier", lambda *_: (run, names))
    paths = [tmp_path / "nothing.png", tmp_path, tmp_path / "image.png"]
    Image.new("RGB", (90, 70)).save(paths[2])
    (_, missing), (_, directory), (_, guesses) = predict(tmp_path, paths)
    for path, error in ((paths[0], missing), (paths[1], directory)):
        assert isinstance(error, InputError)
        assert f"image {path} cannot be read" in str(error)
    assert len(guesses) == 5


def test_an_image_on_which_the_network_overflows_is_named(tmp_path, monkeypatch, linear):
    """One logit is minus infinity; a softmax of the others would be finite."""
    monkeypatch.setattr(prediction, "make_model", lambda config: linear)
    state = initial_state(TINY)
    kernel = np.zeros_like(state["params"]["Dense_0"]["kernel"])
    kernel[:, 3] = -1e35
    state["params"]["Dense_0"]["kernel"] = kernel
    names = [str(digit) for digit in range(10)]
    run = LoadedRun(TINY, state, 0)
    monkeypatch.setattr(prediction, "load_classifier", lambda *_: (run, names))
    paths = [tmp_path / "white.png", tmp_path / "mean.png"]
    for path, colour in zip(paths, [(255, 255, 255), (124, 116, 104)], strict=True):
        Image.new("RGB", (90, 70), colour).save(path)
    (_, error), (_, guesses) = predict(tmp_path, paths)
    assert isinstance(error, InputError)
    assert f"image {paths[0]}: the network must give finite logits" in str(error)
    assert len(guesses) == 5


def torch_names(variables):
    """Returns the variables of a model as a state_dict with PyTorch's names and axes."""
    entries = {}
    for collection in variables.values():
        for path, leaf in jax.tree_util.tree_flatten_with_path(collection)[0]:
            *modules, kind = [key.key for key in path]
            name = ".".join(modules).replace("_0", ".0").replace("_1", ".1")
            name = name.replace("downsample_conv", "downsample.0").replace(
                "downsample_bn", "downsample.1"
            )
            kind = {"mean": "running_mean", "var": "running_var", "bias": "bias"}.get(
                kind, "weight"
            )
            axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(leaf.ndim, (0,))
            entries[f"{name}.{kind}"] = np.ascontiguousarray(np.transpose(leaf, axes))
    return entries


def interrupt(*arguments):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_converted_weights_make_a_run_that_predicts(tmp_path, monkeypatch):
    config = ClassificationConfig(
        model=ResNetConfig(depth=18, width=8), data=DataConfig(image_side=32, eval_resize=32)
    )
    variables = jax.device_get(initial_variables(config))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), variables
    )
    save_file(torch_names(variables), tmp_path / "weights.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr("experiments.engine.config.save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            convert(config, tmp_path / "weights.safetensors", tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]
    convert(config, tmp_path / "weights.safetensors", tmp_path / "run")
    assert steps_in(tmp_path / "run/checkpoints") == [0]
    assert is_converted(tmp_path / "run")
    loaded, names = load_classifier(tmp_path / "run")
    assert len(names) == 1000
    jax.tree.map(np.testing.assert_array_equal, loaded.state["params"], variables["params"])
    jax.tree.map(
        np.testing.assert_array_equal, loaded.state["model_state"], variables["batch_stats"]
    )
    convert(config, tmp_path / "weights.safetensors", tmp_path / "kept", ("fc", "bn1"))
    assert read_json(tmp_path / "kept/converted.json")["kept"] == ["fc", "bn1"]
    kept = RUNS.load(tmp_path / "kept").state
    drawn = jax.device_get(initial_variables(config))
    for name, source in (("fc", drawn), ("bn1", drawn), ("conv1", variables)):
        jax.tree.map(np.testing.assert_array_equal, kept["params"][name], source["params"][name])
    image = Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    assert len(classifier(loaded, names)(image)) == 5
    with pytest.raises(ConfigError, match=f"output.*{tmp_path}/run"):
        convert(config, tmp_path / "weights.safetensors", tmp_path / "run")
    with pytest.raises(ConfigError, match=r"data\.source.*'digits'"):
        conversion.convert(SMALL[0].config, tmp_path / "weights.safetensors", tmp_path / "other")
