import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from experiments.data.composed.crops import (
    CropsConfig,
    crops,
    gradient_energy,
    photograph_side,
    prepare,
    scaled_size,
    split_by_photograph,
)
from experiments.data.composed.photographs import Photograph, pypi_photographs
from experiments.data.errors import DataError


def test_splits_share_no_photograph(data_folder):
    builder = tfds.builder_from_directory(data_folder)
    names = {
        split: {record["photograph"].decode() for record in builder.as_data_source(split)}
        for split in ("train", "validation")
    }
    assert {len(found) for found in names.values()} == {5, 2}
    assert not names["train"] & names["validation"]
    assert names["train"] | names["validation"] == {p.name for p in pypi_photographs()}


def test_records_are_whole_crops_with_texture(data_folder):
    source = tfds.builder_from_directory(data_folder).as_data_source("validation")
    assert len(source) > 50
    for number in (0, len(source) // 2, len(source) - 1):
        image = source[number]["image"]
        assert image.shape == (96, 96, 3)
        assert image.dtype == np.uint8
        assert gradient_energy(image) >= 0.015


def test_a_second_call_reuses_the_data(data_folder):
    before = {path: path.stat().st_mtime_ns for path in data_folder.iterdir()}
    prepare("pypi", data_folder.parents[2])
    assert {path: path.stat().st_mtime_ns for path in data_folder.iterdir()} == before


def test_gradient_energy_of_a_ramp():
    ramp = np.repeat(np.arange(0, 200, 2, dtype=np.uint8)[None, :, None], 100, axis=0)
    assert gradient_energy(np.repeat(ramp, 3, axis=2)) == pytest.approx(2 / 255 / 2, rel=1e-5)


def test_crops_tile_the_scaled_photograph_except_for_smooth_parts(tmp_path):
    rng = np.random.default_rng(0)
    pixels = np.zeros((128, 256, 3), np.uint8)
    pixels[:, :128] = rng.integers(0, 255, (128, 128, 3))
    Image.fromarray(pixels).save(tmp_path / "half.png")
    config = CropsConfig(name="x", photograph_side=128, crop_side=64, stride=32)
    found = dict(crops(tmp_path / "half.png", config))
    assert set(found) == {(top, left) for top in (0, 32, 64) for left in (0, 32, 64, 96)}
    np.testing.assert_array_equal(found[32, 64], pixels[32:96, 64:128])


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((2000, 1000), (1024, 512)),  # scaled down
        ((300, 451), (300, 451)),  # large enough, and not enlarged
        ((100, 250), (288, 720)),  # no crop would fit
        ((1, 3), (288, 864)),
    ],
)
def test_photographs_are_enlarged_only_if_no_crop_would_fit(size, expected):
    assert scaled_size(size, crop_side=288, photograph_side=512) == expected


def test_a_small_photograph_is_cropped_without_scaling(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (70, 100, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "small.png")
    config = CropsConfig(name="x", photograph_side=128, crop_side=64, stride=32)
    found = dict(crops(tmp_path / "small.png", config))
    assert set(found) == {(0, 0), (0, 32)}
    np.testing.assert_array_equal(found[0, 32], pixels[:64, 32:96])


@pytest.mark.slow
def test_large_crops_are_a_separate_dataset(tmp_path):
    folder = prepare("pypi", tmp_path, crop_side=97)
    assert folder.parts[-2:] == ("pypi-large", "1.0.0")
    builder = tfds.builder_from_directory(folder)
    sources = [builder.as_data_source(split) for split in ("train", "validation")]
    assert sum(map(len, sources)) == 107
    assert min(map(len, sources)) > 20
    assert sources[1][0]["image"].shape == (288, 288, 3)
    assert (photograph_side(96), photograph_side(97)) == (256, 512)
    with pytest.raises(ValueError, match=r"crop_side.* 288 .* 289$"):
        prepare("pypi", tmp_path, crop_side=289)


def test_the_larger_set_splits_57_to_14():
    photographs = [Photograph(f"photograph-{n}", path=None, origin="") for n in range(71)]
    train, validation = split_by_photograph(photographs)
    assert (len(train), len(validation)) == (57, 14)
    assert split_by_photograph(photographs[::-1]) == (train, validation)


def test_the_missing_debian_set_is_reported_with_its_command(tmp_path):
    with pytest.raises(DataError, match=r"python -m experiments\.data\.composed\.debian"):
        prepare("debian", tmp_path, photographs=tmp_path / "nothing")
