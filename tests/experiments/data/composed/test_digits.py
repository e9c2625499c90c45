import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from experiments.data.composed.digits import prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def splits(folder):
    builder = tfds.builder_from_directory(folder)
    return {split: list(builder.as_data_source(split)) for split in ("train", "validation")}


def as_grey(record):
    image = record["image"]
    assert image.shape == (32, 32, 3)
    assert (image == image[..., :1]).all()
    return image[..., 0]


def test_the_last_297_digits_are_for_validation(splits):
    targets = load_digits().target
    for split, expected in (("train", targets[:1500]), ("validation", targets[1500:])):
        labels = [record["label"] for record in splits[split]]
        np.testing.assert_array_equal(np.bincount(labels), np.bincount(expected))


def test_each_image_shows_the_digit_of_its_label(splits):
    """The means of 4x4 blocks must be close to a digit of scikit-learn with the same label."""
    digits = load_digits()
    images, targets = digits.images[1500:].reshape(-1, 64), digits.target[1500:]
    matched = set()
    for record in splits["validation"]:
        blocks = as_grey(record).reshape(8, 4, 8, 4).mean((1, 3)).ravel() * 16 / 255
        nearest = int(np.square(images - blocks).sum(axis=1).argmin())
        assert targets[nearest] == record["label"]
        matched.add(nearest)
    assert len(matched) > 290  # the images differ


def test_enlarging_keeps_range_and_centre(splits):
    values = np.concatenate([as_grey(record).ravel() for record in splits["validation"]])
    assert values.min() == 0
    assert values.max() == 255


def test_a_second_call_reuses_the_data(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert prepare(folder.parents[1]) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
