import io
import pickle

import absl.flags
import grain
import jax
import numpy as np
import pytest
from PIL import Image

from experiments.data.composed.photographs import pypi_photographs
from experiments.data.errors import DataError
from experiments.data.records import RecordError
from experiments.engine.config import ConfigError
from experiments.engine.folders import DataFolders
from experiments.inpainting.configs import DataConfig, HoleConfig
from experiments.inpainting.data.batches import (
    InpaintingData,
    buckets,
    evaluation_batches,
    evaluation_hole,
    open_data,
    training_batches,
    validation_example,
)

CONFIG = DataConfig(crop_side=24)
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
        for _ in range(count):
            left, top = rng.integers(400, size=2)
            width, height = rng.integers(30, 100, size=2)
            encoded = io.BytesIO()
            astronaut.crop((left, top, left + width, top + height)).save(encoded, "png")
            records.append({"image": encoded.getvalue()})
        records[UNREADABLE] = {"image": records[UNREADABLE]["image"][:-200]}
        splits.append(records)
    return InpaintingData(*splits)


def pixels_of(record):
    return np.asarray(Image.open(io.BytesIO(record["image"])))


def corners_of(crop, image):
    """Top left corners in ``image`` of windows that equal ``crop``."""
    windows = np.lib.stride_tricks.sliding_window_view(image, crop.shape)[:, :, 0]
    return np.argwhere((windows == crop).all(axis=(2, 3, 4))).tolist()


def assert_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def index_of(mask, holes):
    """The bucket that a hole's size belongs to."""
    percent = 100 * mask.mean()
    (found,) = [n for n, (low, high) in enumerate(buckets(holes)) if low <= percent < high]
    return found


def test_the_buckets():
    assert buckets(HoleConfig()) == ((10, 20), (20, 30), (30, 40), (40, 50), (50, 60))
    assert buckets(HoleConfig(lowest=0, highest=10)) == ((0, 10),)


def test_a_training_batch(data):
    batch = training_batches(data, CONFIG, 8, seed=0)[0]
    shapes = {name: (array.shape, array.dtype) for name, array in batch.items()}
    assert shapes == {
        "image": ((8, 24, 24, 3), np.uint8),
        "mask": ((8, 24, 24, 1), np.uint8),
        "record": ((8,), np.int64),
        "unreadable": ((8, 4), np.int64),
    }
    assert set(np.unique(batch["mask"])) == {0, 1}


def test_training_crops_and_mirrors_at_random_and_does_not_scale(data):
    mirrored, corners = 0, set()
    batches = training_batches(data, CONFIG, 40, seed=0)
    for number in range(2):
        batch = batches[number]
        for crop, record in zip(batch["image"], batch["record"], strict=True):
            image = pixels_of(data.train[record])
            straight = corners_of(crop, image)
            mirrored += not straight
            corners.update(map(tuple, straight or corners_of(crop[:, ::-1], image)))
    assert 25 < mirrored < 55
    assert len(corners) > 50


def test_training_draws_all_buckets_equally_often(data):
    batch = training_batches(data, CONFIG, 400, seed=0)[0]
    found = np.bincount([index_of(mask, CONFIG.holes) for mask in batch["mask"]], minlength=5)
    assert found.min() > 50


def test_each_epoch_has_all_records_in_a_new_order(data):
    dataset = training_batches(data, CONFIG, TRAIN, seed=0)
    epochs = [dataset[number] for number in range(2)]
    expected = sorted([*range(UNREADABLE), *range(UNREADABLE + 1, TRAIN), UNREADABLE + 1])
    orders = [epoch["record"].tolist() for epoch in epochs]
    assert all(sorted(order) == expected for order in orders)
    assert orders[0] != orders[1]
    for epoch in epochs:
        assert epoch["unreadable"][epoch["unreadable"] >= 0].tolist() == [UNREADABLE]


def test_equal_seeds_give_equal_batches_and_different_seeds_different_ones(data):
    first, second = (training_batches(data, CONFIG, 8, seed=4) for _ in range(2))
    assert_equal(first[7], second[7])
    other = training_batches(data, CONFIG, 8, seed=5)[7]
    assert (other["image"] != first[7]["image"]).any()
    assert (other["mask"] != first[7]["mask"]).any()


def test_evaluation_counts_every_readable_record_once(data):
    dataset = evaluation_batches(data, CONFIG, 4)
    assert len(dataset) == 4
    found = jax.tree.map(lambda *parts: np.concatenate(parts), *[dataset[n] for n in range(4)])
    readable = [1] * 5 + [0] + [1] * 7 + [0] * 3
    assert found["weight"].tolist() == readable
    assert found["record"].tolist() == [*range(VALIDATION), -1, -1, -1]
    assert found["unreadable"].ravel().tolist() == [-1] * 5 + [5] + [-1] * 10
    assert found["bucket"].dtype == np.int32
    turns = [0, 1, 2, 3, 4] * 3 + [0]
    assert found["bucket"].tolist() == [
        turn if counts else -1 for turn, counts in zip(turns, readable, strict=True)
    ]
    assert not found["image"][found["weight"] == 0].any()
    assert not found["mask"][found["weight"] == 0].any()
    for number in np.flatnonzero(readable):
        image = pixels_of(data.validation[number])
        top, left = ((n - 24) // 2 for n in image.shape[:2])
        expected = image[top : top + 24, left : left + 24]
        np.testing.assert_array_equal(found["image"][number], expected)
        assert index_of(found["mask"][number], CONFIG.holes) == number % 5
        shown = validation_example(data, CONFIG, int(number))
        assert shown.keys() == {"image", "mask"}
        assert_equal(shown, {name: found[name][number] for name in shown})


def test_evaluation_holes_differ_between_records_and_are_reproducible():
    assert (evaluation_hole(CONFIG, 0)[0] != evaluation_hole(CONFIG, 5)[0]).any()
    assert_equal(evaluation_hole(CONFIG, 5), evaluation_hole(DataConfig(crop_side=24), 5))


def test_holes_have_the_shapes_of_the_config():
    rectangles = DataConfig(crop_side=24, holes=HoleConfig("rectangles", 10, 20))
    holes = [evaluation_hole(rectangles, number)[0][..., 0] for number in range(20)]
    # Most holes consist of one rectangle.
    single = [(hole == np.outer(hole.any(axis=1), hole.any(axis=0))).all() for hole in holes]
    assert sum(single) > 10
    assert evaluation_hole(rectangles, 3)[1] == 0


def test_processes_share_the_batches_of_a_single_process_and_draw_different_holes(
    data, monkeypatch
):
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
            for name, array in share[1].items():
                np.testing.assert_array_equal(array, whole[1][name][process::2])


def test_a_batch_size_that_is_no_multiple_of_the_processes_is_refused(data, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    message = "batch_size.* 2 .* 7"
    with pytest.raises(ConfigError, match=message):
        training_batches(data, CONFIG, 7, seed=0)
    with pytest.raises(ConfigError, match=message):
        evaluation_batches(data, CONFIG, 7)


@pytest.mark.slow
def test_worker_processes_give_the_same_batches(data):
    if not absl.flags.FLAGS.is_parsed():  # absl.app.run does this in programs
        absl.flags.FLAGS.mark_as_parsed()
    for dataset in (training_batches(data, CONFIG, 8, seed=0), evaluation_batches(data, CONFIG, 4)):
        options = grain.MultiprocessingOptions(num_workers=2)
        iterator = iter(dataset.to_iter_dataset().mp_prefetch(options))
        for number in range(4):
            assert_equal(next(iterator), dataset[number])
        iterator.close()


def gradient(width, height):
    """An image whose red grows from left to right, and green from top to bottom, up to 255."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([red, green, 0 * red], axis=-1).round().astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "crop_side", "shown"),
    [
        ((2000, 1000), 128, (128 / 1024, 128 / 512)),  # scaled down to 1024x512
        ((1000, 500), 64, (64 / 512, 64 / 256)),  # scaled down to 512x256
        ((300, 150), 128, (128 / 300, 128 / 150)),  # not scaled
        ((32, 16), 64, (64 / 128, 1)),  # enlarged to 128x64
        ((1, 1), 16, (1, 1)),
    ],
)
def test_the_part_of_an_image_in_a_crop_depends_on_the_size_of_the_crop(size, crop_side, shown):
    encoded = io.BytesIO()
    gradient(*size).save(encoded, "png")
    records = [{"image": encoded.getvalue()}] * 4
    data, config = InpaintingData(records, records), DataConfig(crop_side=crop_side)
    for image in (
        validation_example(data, config, 0)["image"],
        *training_batches(data, config, 8, seed=0)[0]["image"],
    ):
        assert image.shape == (crop_side, crop_side, 3)
        if size != (1, 1):
            red, green = image[..., 0].mean(axis=0), image[..., 1].mean(axis=1)
            assert np.ptp(red) == pytest.approx(255 * shown[0], abs=255 * shown[0] / 10 + 2)
            assert np.ptp(green) == pytest.approx(255 * shown[1], abs=255 * shown[1] / 10 + 2)


@pytest.fixture
def images(tmp_path):
    """A folder of images in many modes, one of them truncated."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for number in range(20):
        gradient(40 + number, 60).save(folder / f"{number}.png")
    for mode in ("L", "RGBA", "CMYK", "1"):
        gradient(50, 70).convert(mode).save(folder / "sub" / f"{mode}.tif")
    (folder / "cut_off.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


def test_a_folder_of_images_is_used_like_a_dataset(images, tmp_path, caplog):
    config = DataConfig(crop_side=32).with_images(images)
    data = open_data(config, DataFolders(tmp_path / "none", tmp_path / "none"))
    names = data.train.names + data.validation.names
    assert len(names) == 25
    epoch = training_batches(data, config, len(data.train), seed=0)[0]
    assert epoch["image"].shape == (len(data.train), 32, 32, 3)
    found = evaluation_batches(data, config, len(data.validation))[0]
    unreadable = [("cut_off.jpg" in split.names) for split in (data.train, data.validation)]
    assert (epoch["unreadable"] >= 0).sum() == unreadable[0]
    assert (found["weight"] == 0).sum() == unreadable[1]
    assert f"image {images}/cut_off.jpg cannot be read" in caplog.text
    split = data.train if unreadable[0] else data.validation
    with pytest.raises(RecordError, match=r"cut_off\.jpg"):
        validation_example(InpaintingData(split, split), config, split.names.index("cut_off.jpg"))


def test_the_exif_orientation_of_an_image_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate clockwise by 90 degrees
    for name in ("a.png", "b.png"):
        gradient(64, 32).save(tmp_path / name, exif=exif)
    config = DataConfig(crop_side=32).with_images(tmp_path)
    data = open_data(config, DataFolders(tmp_path, tmp_path))
    image = validation_example(data, config, 0)["image"]
    red, green = image[0, ..., 0].astype(int), image[:, 0, 1].astype(int)
    assert np.ptp(image[:, 0, 0].astype(int)) > 100  # red grows downwards
    assert green[0] == green[-1] > 200  # and green from right to left
    assert red[0] == red[-1]


def test_the_smallest_folder_trains_and_evaluates(tmp_path):
    for name in ("a.png", "b.png"):
        gradient(40, 40).save(tmp_path / name)
    config = DataConfig(crop_side=32).with_images(tmp_path)
    data = open_data(config, DataFolders(tmp_path, tmp_path))
    batch = training_batches(data, config, 4, seed=0)[1]
    assert batch["record"].tolist() == [0] * 4
    assert len(np.unique(batch["mask"], axis=0)) == 4
    assert evaluation_batches(data, config, 2)[0]["weight"].tolist() == [1, 0]


def test_photographs_are_prepared_in_the_size_that_crops_need(data_folder):
    data_dir = data_folder.parents[2]
    data = open_data(DataConfig(crop_side=64), DataFolders(data_dir, data_dir))
    assert len(data.validation) > 50
    batch = training_batches(data, DataConfig(crop_side=64), 4, seed=0)[0]
    assert batch["image"].shape == (4, 64, 64, 3)
    assert batch["image"].std() > 20
    pickle.dumps(data)


def test_missing_datasets_are_reported_with_the_command_that_fetches_them(tmp_path):
    with pytest.raises(DataError, match=r"python -m experiments\.data\.places"):
        open_data(DataConfig("places365_small"), DataFolders(tmp_path, tmp_path))
    with pytest.raises(DataError, match=r"python -m experiments\.data\.composed\.debian"):
        open_data(DataConfig("debian"), DataFolders(tmp_path, tmp_path))


def test_a_folder_that_has_changed_is_refused(images, tmp_path):
    config = DataConfig(crop_side=32).with_images(images)
    open_data(config, DataFolders(tmp_path, tmp_path))
    (images / "another.png").write_bytes(next(images.glob("*.png")).read_bytes())
    with pytest.raises(DataError, match=str(images)):
        open_data(config, DataFolders(tmp_path, tmp_path))
    assert DataConfig(crop_side=32).with_images(images) != config
