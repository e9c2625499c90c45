"""Valid folders in ADE20K's layout can be prepared; the faults of others are named."""

import io
import multiprocessing
import os
import re
import shutil
import time

import numpy as np
import pytest
from PIL import ExifTags, Image

from experiments.data import ade20k
from experiments.data.ade20k import OFFICIAL, ade20k_folder, prepare_ade20k
from experiments.data.ade_layout import AdeLayout
from experiments.data.errors import DataError
from experiments.data.label_maps import decode_label, open_label_maps
from experiments.data.record_images import decode_image
from tests.experiments.data.ade_folder import (
    CLASSES,
    LAYOUT,
    SIZES,
    image_path,
    label_path,
    stem,
    write_folder,
)

PARTS = {"train": "training", "validation": "validation"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("ade") / "ADEChallengeData2016")


@pytest.fixture(scope="module")
def data(folder, tmp_path_factory):
    return open_label_maps(prepare_ade20k(folder, tmp_path_factory.mktemp("data"), LAYOUT))


@pytest.fixture
def own_folder(folder, tmp_path):
    """A copy to break."""
    return shutil.copytree(folder, tmp_path / "own")


def records(source):
    return [source[index] for index in range(len(source))]


def test_records_equal_the_files_in_their_order(folder, data):
    assert data.class_names == CLASSES
    for split, part in PARTS.items():
        source = data.source(split)
        assert source is getattr(data, split)
        assert len(source) == len(SIZES[part])
        np.testing.assert_array_equal(data.sizes[split], list(SIZES[part].values()))
        assert data.sizes[split].dtype == np.int32
        for number, record in enumerate(records(source), 1):
            assert record["file_name"] == f"{stem(part, number)}.jpg"
            assert record["image"] == image_path(folder, part, number).read_bytes()
            assert (record["height"], record["width"]) == SIZES[part][number]
            last = part == "validation" and number == 2  # has no line in sceneCategories.txt
            assert record["scene"] == ("" if last else f"scene_{number}")
            with Image.open(label_path(folder, part, number)) as image:
                values = np.asarray(image).astype(int)
            expected = np.where(values == 0, 255, values - 1)
            found = decode_label(record)
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, expected)
            with Image.open(io.BytesIO(record["label"])) as image:
                assert (image.format, image.mode) == ("PNG", "L")


def test_images_without_a_labelled_pixel_are_kept_and_counted(data):
    assert data.unlabelled_images == {"train": 1, "validation": 0}
    assert (decode_label(data.train[3]) == 255).all()


def test_a_grey_image_is_decoded_to_rgb(data):
    pixels = np.asarray(decode_image(data.train[3]))
    assert pixels.shape == (12, 17, 3)
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])


def test_the_scenes_may_be_missing(own_folder, tmp_path):
    (own_folder / "sceneCategories.txt").unlink()
    data = open_label_maps(prepare_ade20k(own_folder, tmp_path / "data", LAYOUT))
    assert {record["scene"] for record in records(data.train)} == {""}


def test_the_class_list_may_lack_columns_and_have_a_byte_order_mark(own_folder, tmp_path):
    text = "\ufeffName\tIdx\r\nwall\t1\r\nbuilding, edifice\t2\r\nsky\t3"
    (own_folder / "objectInfo150.txt").write_bytes(text.encode())
    data = open_label_maps(prepare_ade20k(own_folder, tmp_path / "data", LAYOUT))
    assert data.class_names == CLASSES


def save_label(folder, values, **options):
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(label_path(folder, "validation", 2), **options)


def lose_image(folder):
    image_path(folder, "training", 2).unlink()


def lose_label(folder):
    label_path(folder, "training", 2).unlink()


def lose_images(folder):
    shutil.rmtree(folder / "images" / "validation")


def lose_labels(folder):
    for path in (folder / "annotations" / "validation").iterdir():
        path.unlink()


def lose_pair(folder):
    lose_image(folder)
    lose_label(folder)


def lose_class_list(folder):
    (folder / "objectInfo150.txt").unlink()


def double_image(folder):
    path = image_path(folder, "training", 2)
    shutil.copy(path, path.with_suffix(".jpeg"))


def other_size(folder):
    save_label(folder, np.ones((19, 41), np.uint8))


def turned_image(folder):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = Image.new("RGB", (41, 19))  # stored with another size than it is shown
    image.save(image_path(folder, "validation", 2), exif=exif)


def high_value(folder):
    values = np.ones((41, 19), np.uint8)
    values[7, 5] = values[8, 2] = 4
    save_label(folder, values)


def palette_label(folder):
    image = Image.fromarray(np.ones((41, 19), np.uint8), "L").convert("P")
    save_label(folder, image)


def colour_label(folder):
    save_label(folder, np.ones((41, 19, 3), np.uint8))


def deep_label(folder):
    save_label(folder, Image.new("I;16", (19, 41)))


def jpeg_label(folder):
    save_label(folder, np.ones((41, 19), np.uint8), format="JPEG")


def truncated_label(folder):
    path = label_path(folder, "validation", 2)
    path.write_bytes(path.read_bytes()[:-60])


def empty_label(folder):
    label_path(folder, "validation", 2).write_bytes(b"")


def damaged_image(folder):
    image_path(folder, "validation", 2).write_bytes(b"no image")


def linked_label(folder):
    path = label_path(folder, "validation", 2)
    path.unlink()
    path.symlink_to("nowhere.png")


def class_list(text):
    def write(folder):
        (folder / "objectInfo150.txt").write_bytes(
            text if isinstance(text, bytes) else text.encode()
        )

    return write


def wrong_scenes(folder):
    (folder / "sceneCategories.txt").write_text("ADE_train_00000001 a\nADE_train_00000002\n")


def full_release(folder):
    (folder / "images" / "training" / "a").mkdir()


def full_labels(folder):
    image = image_path(folder, "training", 2)
    shutil.copy(image, image.with_name("ADE_train_00000002_seg.png"))


def full_release_inside(folder):
    (folder / "ADE20K_2016_07_26").mkdir()


def folder_inside(folder):
    (folder / "ADEChallengeData2016").mkdir()


FAULTS = [
    (lose_image, r"each label.* 1 of 4 .*training/ADE_train_00000002\.png"),
    (lose_label, r"each image.* 1 of 4 .*training/ADE_train_00000002\.jpg"),
    (lose_images, r"own/images/validation.*No such file"),
    (lose_labels, r"own/annotations/validation.*\.png.* none"),
    (lose_pair, r"own/images/training.* 4 images.* 3$"),
    (lose_class_list, r"objectInfo150\.txt.*No such file"),
    (double_image, r"ADE_train_00000002\.jpg.*ADE_train_00000002\.jpeg|\.jpeg.*\.jpg"),
    (other_size, r"val_00000002\.png.* 41 x 19 .*val_00000002\.jpg.* 19 x 41$"),
    (turned_image, r"val_00000002\.png.* 19 x 41 .*\.jpg.* 41 x 19\. .*EXIF"),
    (high_value, r"val_00000002\.png.* 1\.\.3 .* 0 .* 4 in row 7, column 5,.* 2 of 779 "),
    (palette_label, r"val_00000002\.png.* grey.* P\. .*ADEChallengeData2016"),
    (colour_label, r"val_00000002\.png.* grey.* RGB\. .*full ADE20K.*ADEChallengeData2016"),
    (deep_label, r"val_00000002\.png.* 8 bits"),
    (jpeg_label, r"val_00000002\.png.* PNG "),
    (truncated_label, r"val_00000002\.png cannot be read"),
    (empty_label, r"val_00000002\.png cannot be read.*empty"),
    (damaged_image, r"image .*val_00000002\.jpg cannot be read"),
    (linked_label, r"val_00000002\.png.*No such file"),
    (class_list(b""), r"objectInfo150\.txt.*Idx and Name.*\[\]"),
    (class_list(b"1\twall\n"), r"objectInfo150\.txt.*Idx and Name.*'wall'"),
    (class_list(b"Idx\tName\n1\ta\n3\tb\n"), r"objectInfo150\.txt.* line 3 .* 2 .*'3\\tb'"),
    (class_list(b"Idx\tName\n1\ta\n2\t \n3\tc"), r"objectInfo150\.txt.* line 3 .*'2\\t '"),
    (class_list(b"Idx\tName\n1\ta\n2\n3\tc"), r"objectInfo150\.txt.* line 3 .*'2'"),
    (class_list(b"Idx\tName\n1\ta\n"), r"objectInfo150\.txt.* 3 classes.* 1$"),
    (class_list(b"Idx\tName\n1\t\xff\n"), r"objectInfo150\.txt.*UTF-8.*byte 11 "),
    (wrong_scenes, r"sceneCategories\.txt.* line 2 .*'ADE_train_00000002'"),
    (full_release, r"own.*full ADE20K.*ADEChallengeData2016"),
    (full_labels, r"ADE_train_00000002_seg\.png.*full ADE20K.*ADEChallengeData2016"),
    (full_release_inside, r"ADE20K_2016_07_26.*full ADE20K.*ADEChallengeData2016"),
    (folder_inside, r"own.*own/ADEChallengeData2016 meant"),
]


@pytest.mark.parametrize(("break_it", "message"), FAULTS)
def test_faults_are_named_and_leave_no_files(own_folder, tmp_path, break_it, message):
    break_it(own_folder)
    with pytest.raises(DataError, match=message):
        prepare_ade20k(own_folder, tmp_path / "data", LAYOUT)
    home = tmp_path / "data" / "label_maps" / "ade20k"
    assert [path.name for path in home.iterdir()] == [".lock"]
    with pytest.raises(DataError, match="must hold version"):
        ade20k_folder(tmp_path / "data")


def test_corrected_files_can_be_prepared_after_an_error(own_folder, folder, tmp_path):
    high_value(own_folder)
    with pytest.raises(DataError, match="val_00000002"):
        prepare_ade20k(own_folder, tmp_path / "data", LAYOUT)
    shutil.copy(label_path(folder, "validation", 2), label_path(own_folder, "validation", 2))
    prepared = prepare_ade20k(own_folder, tmp_path / "data", LAYOUT)
    assert prepared == ade20k_folder(tmp_path / "data")
    assert len(open_label_maps(prepared).validation) == 2


def test_the_official_dataset_must_have_all_its_images(folder, tmp_path):
    assert OFFICIAL.counts == {"train": 20_210, "validation": 2_000}
    official = AdeLayout(OFFICIAL.class_list, 3, OFFICIAL.counts)
    with pytest.raises(DataError, match=r"images/training.* 20210 images.* 4$"):
        prepare_ade20k(folder, tmp_path, official)
    with pytest.raises(DataError, match=r"objectInfo150\.txt.* 150 classes.* 3$"):
        prepare_ade20k(folder, tmp_path)


def prepare_small(folder, data_dir):
    prepare_ade20k(folder, data_dir, LAYOUT)


def test_a_killed_preparation_starts_again(own_folder, folder, data, tmp_path):
    # A label is a pipe. Its content is read once for the check, and once when it is written; then
    # the preparation waits, and is killed.
    slow = label_path(own_folder, "validation", 2)
    content = slow.read_bytes()
    slow.unlink()
    os.mkfifo(slow)
    process = multiprocessing.get_context("spawn").Process(
        target=prepare_small, args=(own_folder, tmp_path)
    )
    process.start()
    with opened_when_read(slow, process) as pipe:
        pipe.write(content)
    home = tmp_path / "label_maps" / "ade20k"
    while not (left := list(home.glob("incomplete.*"))):
        assert process.is_alive()
        time.sleep(0.02)
    with opened_when_read(slow, process):
        process.kill()
        process.join()
    with pytest.raises(DataError, match=r"incomplete.*did not end"):
        ade20k_folder(tmp_path)
    again = open_label_maps(prepare_ade20k(folder, tmp_path, LAYOUT))
    assert records(again.train) == records(data.train)
    assert records(again.validation) == records(data.validation)
    assert not left[0].exists()


def opened_when_read(fifo, process):
    """Opens a pipe for writing when a process reads it."""
    while True:
        assert process.is_alive()
        try:
            return os.fdopen(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK), "wb")
        except OSError:  # no process reads it yet
            time.sleep(0.02)


def test_one_of_two_processes_prepares_the_dataset(folder, data, tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=prepare_small, args=(folder, tmp_path)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    again = open_label_maps(ade20k_folder(tmp_path))
    assert records(again.train) == records(data.train)


def test_a_prepared_dataset_needs_no_files_and_may_be_read_only(folder, tmp_path):
    prepared = prepare_ade20k(folder, tmp_path / "data", LAYOUT)
    lock = prepared.parent / ".lock"
    lock.unlink()
    lock.mkdir()  # cannot be opened for writing, even by root
    assert prepare_ade20k(tmp_path / "gone", tmp_path / "data", LAYOUT) == prepared


def test_nothing_prepared_names_the_command(tmp_path):
    command = "python -m experiments.data.ade20k ADEChallengeData2016 --data-dir "
    with pytest.raises(DataError, match=f"label_maps/ade20k.*{re.escape(command)}{tmp_path}"):
        ade20k_folder(tmp_path)


def test_the_command_ends_with_a_message(tmp_path, run_failing):
    code, message = run_failing(ade20k.main, tmp_path, "--data-dir", tmp_path / "data")
    assert code == 2
    assert re.fullmatch(r"error: .*objectInfo150\.txt.*\n", message)
