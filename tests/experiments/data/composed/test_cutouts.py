"""Uses fake cutouts, discs with one colour for each class, and the PyPI photographs."""

import colorsys
import hashlib
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image, ImageDraw

from experiments.data.composed.cutouts import (
    Cutout,
    CutoutsConfig,
    fetched_cutouts,
    pasted,
    prepare,
    read_cutout,
    split_by_cutout,
)
from experiments.data.composed.cutouts_manifest import CLASSES, CUTOUTS, cached_name
from experiments.data.composed.photographs import pypi_photographs
from experiments.data.errors import DataError

SIDE = 48
COLOURS = {
    label: tuple(round(255 * value) for value in colorsys.hsv_to_rgb(number / len(CLASSES), 1, 1))
    for number, label in enumerate(CLASSES)
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache as if fetched; the discs have empty margins."""
    cache = tmp_path_factory.mktemp("cache")
    folder = cache / CUTOUTS.name
    folder.mkdir()
    entries = {}
    for label, cutouts in CLASSES.items():
        for cutout in cutouts:
            image = Image.new("RGBA", (24, 40))
            ImageDraw.Draw(image).ellipse((2, 10, 21, 29), fill=(*COLOURS[label], 255))
            path = folder / cached_name(cutout)
            image.save(path)
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            entries[path.name] = {"size": len(content), "sha256": digest}
    (folder / "index.json").write_text(json.dumps({"files": entries}))
    return cache


@pytest.fixture(scope="module")
def config():
    return CutoutsConfig(
        photographs="pypi", side=SIDE, training_examples=180, validation_examples=62
    )


@pytest.fixture(scope="module")
def folder(cache, config, tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data"), cache, config)


@pytest.fixture(scope="module")
def splits(folder):
    builder = tfds.builder_from_directory(folder)
    assert builder.info.features["label"].names == list(CLASSES)
    return {split: list(builder.as_data_source(split)) for split in ("train", "validation")}


def test_the_manifest_has_twelve_classes_of_nine_cutouts_or_more():
    counts = {label: len(cutouts) for label, cutouts in CLASSES.items()}
    assert list(counts) == sorted(counts)
    assert len(counts) == 12
    assert min(counts.values()) == 9
    assert len(CUTOUTS.files) == len(set(CUTOUTS.files.values())) == sum(counts.values()) == 237
    assert (
        CUTOUTS.files["animals-birds-crow.png"]
        == "usr/share/tuxpaint/stamps/animals/birds/crow.png"
    )


def test_splits_share_neither_cutout_nor_photograph(splits):
    for field in ("cutout", "photograph"):
        train, validation = (
            {record[field].decode() for record in splits[split]} for split in splits
        )
        assert train
        assert validation
        assert not train & validation
    photographs = {record["photograph"].decode() for split in splits.values() for record in split}
    assert photographs <= {photograph.name for photograph in pypi_photographs()}


def test_classes_are_balanced(splits):
    for split, count in (("train", 180), ("validation", 62)):
        counts = np.bincount([record["label"] for record in splits[split]], minlength=12)
        assert counts.sum() == count
        assert np.ptp(counts) <= 1


def test_every_image_shows_a_complete_cutout_of_its_class(splits):
    """A disc covers pi/4 of a square with a side of 0.4 to 0.8 times the image's."""
    names = list(CLASSES)
    for record in splits["train"]:
        label = names[record["label"]]
        assert record["cutout"].decode() in CLASSES[label]
        distance = np.abs(record["image"].astype(int) - COLOURS[label]).max(axis=-1)
        share = (distance < 8).mean()
        assert 0.4**2 * np.pi / 4 * 0.7 < share < 0.8**2 * np.pi / 4 * 1.2, record["cutout"]


def test_the_same_seeds_give_the_same_data(folder, cache, config, tmp_path):
    again = tfds.builder_from_directory(prepare(tmp_path, cache, config))
    first = tfds.builder_from_directory(folder)
    for split in ("train", "validation"):
        for a, b in zip(*(x.as_data_source(split) for x in (first, again)), strict=True):
            np.testing.assert_array_equal(a["image"], b["image"])


def test_other_data_gets_another_folder(config):
    names = {
        config.name,
        CutoutsConfig().name,
        CutoutsConfig(side=64).name,
        CutoutsConfig(training_examples=1).name,
        CutoutsConfig(validation_examples=1).name,
        CutoutsConfig(photographs="pypi").name,
    }
    assert len(names) == 6


def test_the_real_classes_split_179_to_58(cache):
    cutouts = fetched_cutouts(cache)
    train, validation = split_by_cutout(cutouts)
    assert (len(train), len(validation)) == (179, 58)
    assert {cutout.name for cutout in train} | {cutout.name for cutout in validation} == {
        name for names in CLASSES.values() for name in names
    }
    assert split_by_cutout(cutouts[::-1]) == (train, validation)
    of_class = [cutout for cutout in validation if cutout.label == "bugs"]
    assert len(of_class) == 3
    assert all(isinstance(cutout, Cutout) for cutout in train)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_cutout_loses_its_margins_and_keeps_its_shape(tmp_path, mode):
    image = Image.new("RGBA", (100, 80))
    ImageDraw.Draw(image).rectangle((10, 20, 69, 39), fill=(200, 200, 200, 255))
    options = {}
    if mode == "P":
        image = image.quantize(4)
        transparent = image.getpixel((0, 0))
        options = {"transparency": bytes(0 if n == transparent else 255 for n in range(4))}
    else:
        image = image.convert(mode)
    image.save(tmp_path / "cutout.png", **options)
    cutout = read_cutout(tmp_path / "cutout.png", 30)
    assert cutout.mode == "RGBA"
    assert cutout.size == (30, 10)
    assert cutout.getpixel((15, 5)) == (200, 200, 200, 255)


def test_transparent_pixels_show_the_background():
    background = np.full((20, 20, 3), 50, np.uint8)
    cutout = Image.new("RGBA", (10, 10), (255, 0, 0, 0))
    cutout.putpixel((0, 0), (255, 0, 0, 255))
    image = np.asarray(pasted(np.random.default_rng(0), background, cutout))
    changed = (image != background).any(axis=-1)
    assert 0 < changed.sum() < 30
    np.testing.assert_array_equal(image[~changed], background[~changed])


def test_an_empty_cache_names_the_command(tmp_path):
    with pytest.raises(DataError, match=r"data\.composed\.debian --cutouts --cache"):
        prepare(tmp_path / "data", tmp_path)
