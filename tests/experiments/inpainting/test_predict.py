import dataclasses
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from experiments.engine.checkpoints import CheckpointError
from experiments.engine.optimization import ScheduleConfig
from experiments.engine.settings import Operation
from experiments.inpainting.configs import TRAINING, DataConfig, InpaintingConfig
from experiments.inpainting.predict import (
    InputError,
    fill_function,
    load_run,
    predict,
    read_image,
    read_mask,
)
from experiments.inpainting.task import train_run
from experiments.models.unet import UNetConfig

CONFIG = InpaintingConfig(
    model=UNetConfig("carafe", "carafe", (4, 6)),
    data=DataConfig(crop_side=16),
    training=dataclasses.replace(
        TRAINING, batch_size=4, schedule=ScheduleConfig(length=2, warmup=1)
    ),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data_folder):
    folder = tmp_path_factory.mktemp("run")
    train_run(CONFIG, folder, data_folder, Operation())
    return folder


@pytest.fixture
def files(tmp_path):
    """An image of 30x21 pixels and a mask with a hole, as paths."""
    pixels = np.random.default_rng(0).integers(0, 256, (21, 30, 3), dtype=np.uint8)
    mask = np.zeros((21, 30), np.uint8)
    mask[5:12, 8:20] = 255
    Image.fromarray(pixels).save(tmp_path / "image.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path / "image.png", tmp_path / "mask.png"


def test_only_the_hole_changes(run, files, tmp_path):
    predict(run, *files, tmp_path / "out.png")
    before, after = read_image(files[0]), read_image(tmp_path / "out.png")
    hole = read_mask(files[1], before.shape[:2])
    np.testing.assert_array_equal(before[~hole], after[~hole])
    assert (before[hole] != after[hole]).any()


@pytest.mark.parametrize("size", [(1, 2), (7, 33), (300, 521)])
def test_any_size(run, size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = np.zeros(size, bool)
    mask[: max(1, size[0] // 2), : size[1] // 2] = True
    filled = fill_function(*load_run(run))(image, mask)
    assert filled.shape == image.shape
    assert filled.dtype == np.uint8
    np.testing.assert_array_equal(filled[~mask], image[~mask])


def test_what_is_in_the_hole_has_no_influence(run):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)  # scaled down to be filled
    mask = np.zeros((300, 400), bool)
    mask[100:171, 33:200] = True
    other = np.where(mask[..., None], 255 - image, image)
    function = fill_function(*load_run(run))
    np.testing.assert_array_equal(function(image, mask)[mask], function(other, mask)[mask])


def test_a_hole_with_one_seen_pixel_in_a_large_image(run):
    image = np.full((600, 600, 3), 200, np.uint8)
    mask = np.ones((600, 600), bool)
    mask[300, 300] = False
    assert fill_function(*load_run(run))(image, mask).shape == image.shape


def test_a_scratch_thinner_than_a_working_pixel_is_filled_from_its_sides(run):
    image = np.full((600, 600, 3), 200, np.uint8)
    mask = np.zeros((600, 600), bool)
    mask[:, 300] = True
    image[mask] = 0
    np.testing.assert_allclose(fill_function(*load_run(run))(image, mask)[mask], 200, atol=1)


@pytest.mark.parametrize(
    ("shape", "mask", "message"),
    [
        ((4, 4, 4), np.eye(4, dtype=bool), r"got uint8 \(4, 4, 4\) and bool \(4, 4\)"),
        ((4, 5, 3), np.eye(4, dtype=bool), r"got uint8 \(4, 5, 3\)"),
        ((4, 4, 3), np.eye(4), "and float64"),
        ((4, 4, 3), np.ones((4, 4), bool), "the mask is all hole"),
    ],
)
def test_arrays_that_are_no_image_with_a_hole(run, shape, mask, message):
    with pytest.raises(InputError, match=message):
        fill_function(*load_run(run))(np.zeros(shape, np.uint8), mask)


def test_a_mask_painted_on_transparent_ground(tmp_path):
    mask = np.full((4, 5, 4), 255, np.uint8)
    mask[1:, :, 3] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    found = read_mask(tmp_path / "mask.png", (4, 5))
    assert found[0].all()
    assert not found[1:].any()


def test_a_transparent_image_is_refused(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 128)).save(tmp_path / "image.png")
    with pytest.raises(InputError, match="must be opaque, got transparent pixels"):
        read_image(tmp_path / "image.png")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA"])
def test_modes_become_rgb(tmp_path, mode):
    path = tmp_path / "image.tiff"
    Image.new("RGB", (4, 3), (200, 200, 200)).convert(mode).save(path)
    assert read_image(path).shape == (3, 4, 3)


def test_exif_orientation_is_followed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (40, 30)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (40, 30, 3)


def test_an_unreadable_image(tmp_path, files):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match=r"image .*text\.png cannot be read: cannot identify"):
        read_image(tmp_path / "text.png")
    (tmp_path / "half.png").write_bytes(files[0].read_bytes()[:900])
    with pytest.raises(InputError, match=r"image .*half\.png cannot be read: .*truncated"):
        read_image(tmp_path / "half.png")
    with pytest.raises(InputError, match=r"image .*none\.png cannot be read: .*No such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(InputError, match=r"cannot be read: .*directory"):
        read_image(tmp_path)
    Image.new("I;16", (3, 3)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match="8 bits a channel, got mode I;16"):
        read_image(tmp_path / "deep.png")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match=r"cannot be read: .*exceeds limit"):
        read_image(tmp_path / "large.png")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((21, 30), np.uint8), "has no hole"),
        (np.full((21, 30), 255, np.uint8), "is all hole"),
        (np.eye(30, dtype=np.uint8) * 255, "size of the image, 30x21, got 30x30"),
    ],
)
def test_masks_that_cannot_be_used(tmp_path, values, message):
    Image.fromarray(values).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=message):
        read_mask(tmp_path / "mask.png", (21, 30))


@pytest.mark.parametrize("name", ["out.jpg", "folder.png"])
def test_an_output_that_is_no_png_is_refused(run, files, tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match=r"output must be a file that ends in \.png, got"):
        predict(run, *files, tmp_path / name)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no run: config\.json is missing"):
        load_run(tmp_path)


def test_a_truncated_checkpoint(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for path in (tmp_path / "run/checkpoints/2/state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"checkpoints/2 is damaged"):
        load_run(tmp_path / "run")


def test_a_checkpoint_of_another_model(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["model"]["widths"] = [8, 6]
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=r"of another model, \d+ of its arrays differ: .*expected .*found "
    ):
        load_run(tmp_path / "run")


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "classification"},
        {"backbone": "resnet50"},
        {"model": {"downsampler": "zzz", "upsampler": "carafe", "widths": [4, 6]}},
        {"model": {"downsampler": "carafe", "upsampler": "carafe", "widths": 16}},
    ],
)
def test_a_run_of_another_task(run, tmp_path, changes):
    config = json.loads((run / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="is no run of the inpainting task"):
        load_run(tmp_path)


@pytest.mark.slow
def test_the_command(run, files, tmp_path):
    def call(*arguments):
        command = [sys.executable, "-m", "experiments.inpainting", "predict", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    image, mask = files
    done = call(image, "--mask", mask, "--run", run)
    assert done.returncode == 0, done.stderr
    output = tmp_path / "image-filled.png"
    assert done.stdout.strip() == str(output)
    assert read_image(output).shape == (21, 30, 3)
    failed = call(tmp_path / "none.png", "--mask", mask, "--run", run)
    assert failed.returncode == 2
    assert re.fullmatch(r"error: image .*none\.png cannot be read: .*\n", failed.stderr)
