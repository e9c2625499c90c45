import io

import absl.flags
import grain
import jax
import numpy as np
import pytest
from PIL import Image

from experiments.classification import batches
from experiments.classification.batches import (
    ClassificationData,
    evaluation_batches,
    open_data,
    training_batches,
)
from experiments.classification.data_config import DataConfig
from experiments.classification.images import evaluation_crop
from experiments.data.composed.cutouts import CutoutsConfig
from experiments.data.composed.photographs import pypi_photographs
from experiments.data.errors import DataError
from experiments.engine.config import ConfigError
from experiments.engine.folders import DataFolders

CONFIG = DataConfig(image_side=24, eval_resize=28)
TRAIN, VALIDATION = 22, 13
UNREADABLE = 5


@pytest.fixture(scope="module")
def data():
    """Pieces of a photograph, of several sizes; one record of each split is truncated."""
    rng = np.random.default_rng(0)
    with Image.open(pypi_photographs()[0].path) as image:
        astronaut = image.convert("RGB")
    splits = []
    for count in (TRAIN, VALIDATION):
        records = []
        for number in range(count):
            left, top = rng.integers(400, size=2)
            width, height = rng.integers(40, 100, size=2)
            encoded = io.BytesIO()
            astronaut.crop((left, top, left + width, top + height)).save(encoded, "jpeg")
            content = encoded.getvalue()
            records.append({"image": content, "label": number % 3})
        records[UNREADABLE]["image"] = records[UNREADABLE]["image"][:-200]
        splits.append(records)
    return ClassificationData(splits[0], splits[1], ("a", "b", "c"))


def assert_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_a_training_batch(data):
    batch = training_batches(data, CONFIG, 8, seed=0)[0]
    shapes = {name: (array.shape, array.dtype) for name, array in batch.items()}
    assert shapes == {
        "image": ((8, 24, 24, 3), np.uint8),
        "label": ((8,), np.int32),
        "record": ((8,), np.int64),
        "unreadable": ((8, 4), np.int64),
    }
    np.testing.assert_array_equal(batch["label"], batch["record"] % 3)
    assert batch["image"].std() > 20


def test_each_epoch_has_every_record_in_another_order(data):
    dataset = training_batches(data, CONFIG, TRAIN, seed=0)
    epochs = [dataset[number] for number in range(3)]
    expected = sorted([*range(UNREADABLE), *range(UNREADABLE + 1, TRAIN), UNREADABLE + 1])
    orders = [epoch["record"].tolist() for epoch in epochs]
    assert all(sorted(order) == expected for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert orders[0] != sorted(orders[0])
    for epoch in epochs:
        assert epoch["unreadable"].max(axis=1).tolist().count(UNREADABLE) == 1
        assert (epoch["unreadable"] >= 0).sum() == 1


def test_crops_differ_between_epochs_and_seeds(data):
    images = {}
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        batch = training_batches(data, CONFIG, TRAIN, seed)[epoch]
        place = batch["record"].tolist().index(3)
        images[seed, epoch] = batch["image"][place]
    assert (images[0, 0] != images[0, 1]).any()
    assert (images[0, 0] != images[1, 0]).any()


def test_the_same_seed_gives_the_same_batches(data):
    first, second = (training_batches(data, CONFIG, 8, seed=4) for _ in range(2))
    for number in (0, 7):
        assert_equal(first[number], second[number])


def test_processes_share_the_batches_of_one(data, monkeypatch):
    whole_training = training_batches(data, CONFIG, 8, seed=0)
    whole_evaluation = evaluation_batches(data, CONFIG, 8)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert len(evaluation_batches(data, CONFIG, 8)) == len(whole_evaluation) == 2
    for process in range(2):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        for whole, share in (
            (whole_training, training_batches(data, CONFIG, 8, seed=0)),
            (whole_evaluation, evaluation_batches(data, CONFIG, 8)),
        ):
            for number in (0, 1):
                for name, array in share[number].items():
                    np.testing.assert_array_equal(array, whole[number][name][process::2])


@pytest.mark.parametrize("batch_size", [0, 7])
def test_a_batch_that_processes_cannot_share_is_refused(data, monkeypatch, batch_size):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    message = f"batch_size.* {batch_size}"
    with pytest.raises(ConfigError, match=message):
        training_batches(data, CONFIG, batch_size, seed=0)
    with pytest.raises(ConfigError, match=message):
        evaluation_batches(data, CONFIG, batch_size)


def test_evaluation_counts_every_readable_record_once(data):
    dataset = evaluation_batches(data, CONFIG, 4)
    assert len(dataset) == 4
    found = [dataset[number] for number in range(4)]
    records = np.concatenate([batch["record"] for batch in found])
    weight = np.concatenate([batch["weight"] for batch in found])
    unreadable = np.concatenate([batch["unreadable"] for batch in found])
    assert records.tolist() == [*range(VALIDATION), -1, -1, -1]
    assert weight.tolist() == [1] * 5 + [0] + [1] * 7 + [0] * 3
    assert weight.dtype == np.float32
    assert unreadable.shape == (16, 1)
    assert unreadable.ravel().tolist() == [-1] * 5 + [5] + [-1] * 10
    images = np.concatenate([batch["image"] for batch in found])
    labels = np.concatenate([batch["label"] for batch in found])
    assert not images[weight == 0].any()
    for number in np.flatnonzero(weight):
        record = data.validation[number]
        image = Image.open(io.BytesIO(record["image"]))
        np.testing.assert_array_equal(images[number], evaluation_crop(image, CONFIG))
        assert labels[number] == record["label"]


@pytest.mark.slow
def test_worker_processes_give_the_same_batches(data):
    if not absl.flags.FLAGS.is_parsed():  # as absl.app.run would have done
        absl.flags.FLAGS.mark_as_parsed()
    for dataset in (
        training_batches(data, CONFIG, 8, seed=0),
        evaluation_batches(data, CONFIG, 4),
    ):
        options = grain.MultiprocessingOptions(num_workers=2)
        iterator = iter(dataset.to_iter_dataset().mp_prefetch(options))
        for number in range(4):
            assert_equal(next(iterator), dataset[number])
        iterator.close()


def test_digits_open_and_batch(tmp_path):
    config = DataConfig("digits", 32, 32, "pad_crop", flip=False)
    data = open_data(config, DataFolders(tmp_path))
    assert (len(data.train), len(data.validation)) == (1500, 297)
    assert data.class_names == tuple("0123456789")
    batch = training_batches(data, config, 16, seed=0)[0]
    assert batch["image"].shape == (16, 32, 32, 3)
    assert len(set(batch["label"].tolist())) > 3
    last = evaluation_batches(data, config, 16)[18]
    assert last["weight"].sum() == 297 - 18 * 16


def test_each_source_opens_its_own_dataset(tmp_path, monkeypatch):
    calls = []

    def prepare(data_dir, cache, config):
        calls.append((data_dir, cache, config))
        return "folder of cutouts"

    monkeypatch.setattr(batches.cutouts, "prepare", prepare)
    classes = tuple("abcdefghijkl")
    monkeypatch.setattr(
        batches, "open_folder", lambda folder: ClassificationData(folder, folder, classes)
    )
    config = DataConfig("cutouts", 64, 64, photographs="pypi")
    found = open_data(config, DataFolders(tmp_path, tmp_path / "cache"))
    assert found.train == "folder of cutouts"
    assert calls == [(tmp_path, tmp_path / "cache", CutoutsConfig(photographs="pypi"))]
    with pytest.raises(DataError, match="imagenet2012"):
        open_data(DataConfig(), DataFolders(tmp_path))


def test_a_dataset_with_other_classes_than_the_network_is_refused(digits_dir, monkeypatch):
    config = DataConfig("digits", 32, 32, "pad_crop", flip=False)
    nine = ClassificationData([], [], tuple("012345678"))
    monkeypatch.setattr(batches, "open_folder", lambda folder: nine)
    with pytest.raises(DataError, match="10 classes of digits, got 9"):
        open_data(config, DataFolders(digits_dir))
