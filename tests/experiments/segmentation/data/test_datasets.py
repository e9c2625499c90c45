import dataclasses
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from experiments.data.ade20k import prepare_ade20k
from experiments.data.composed.scenes_config import ScenesConfig
from experiments.data.errors import DataError
from experiments.data.label_maps import decode_label
from experiments.engine.folders import DataFolders
from experiments.segmentation.data.config import DataConfig, OwnFolders
from experiments.segmentation.data.datasets import open_data, with_own_files
from tests.experiments.data.ade_folder import LAYOUT, write_folder

SCENES = DataConfig("scenes", scenes=ScenesConfig("pypi", 64, 8, 6, 24, 48, 2))


@pytest.fixture
def own(tmp_path):
    """The config of a folder of five images with two classes."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number in range(5):
        Image.new("RGB", (9, 7)).save(tmp_path / "images" / f"{number}.jpg")
        values = np.full((7, 9), [0, 1, 255][number % 3], np.uint8)
        Image.fromarray(values).save(tmp_path / "labels" / f"{number}.png")
    (tmp_path / "classes.txt").write_text("cup\ncat\n")
    paths = [str(tmp_path / name) for name in ("images", "labels", "classes.txt")]
    return DataConfig(own=OwnFolders(*paths))


def test_scenes_are_composed_only_if_they_are_missing(scenes_dir, cutouts_cache, tmp_path):
    data = open_data(SCENES, DataFolders(scenes_dir, cutouts_cache))
    assert (len(data.train), len(data.validation)) == (8, 6)
    assert len(data.class_names) == SCENES.classes == 13
    again = open_data(SCENES, DataFolders(scenes_dir, tmp_path))  # an empty cache
    assert again.folder == data.folder
    assert again.train[3] == data.train[3]


def test_missing_ade20k_is_reported_with_the_command_that_prepares_it(tmp_path):
    command = f"experiments.data.ade20k ADEChallengeData2016 --data-dir {tmp_path}"
    with pytest.raises(DataError, match=re.escape(command)):
        open_data(DataConfig("ade20k"), DataFolders(tmp_path))


def test_ade20k_must_have_150_classes(tmp_path):
    prepare_ade20k(write_folder(tmp_path / "ade"), tmp_path / "data", LAYOUT)
    with pytest.raises(DataError, match=r"label_maps/ade20k.* 150 .*ade20k.* 3$"):
        open_data(DataConfig("ade20k"), DataFolders(tmp_path / "data"))


def test_scenes_without_cutouts_name_the_command(tmp_path):
    with pytest.raises(DataError, match=r"experiments\.data\.composed\.debian --cutouts"):
        open_data(SCENES, DataFolders(tmp_path / "data", tmp_path))


def test_own_files_replace_the_source(own, tmp_path):
    config = with_own_files(own)
    assert config.classes == 2
    assert re.fullmatch("[0-9a-f]{16}", config.own.digest)
    data = open_data(config, DataFolders(tmp_path / "data"))
    assert data.class_names == ("cup", "cat")
    assert len(data.train) + len(data.validation) == 5
    for record in map(data.train.__getitem__, range(len(data.train))):
        number = int(record["file_name"].removesuffix(".jpg"))
        assert (decode_label(record) == [0, 1, 255][number % 3]).all()


def test_paths_become_absolute(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = OwnFolders("images", "labels", "classes.txt")
    assert with_own_files(dataclasses.replace(own, own=relative)) == with_own_files(own)


def test_a_config_without_own_files_is_unchanged():
    assert with_own_files(SCENES) is SCENES


def test_changed_own_files_have_another_digest_and_are_refused(own, tmp_path):
    config = with_own_files(own)
    (tmp_path / "images" / "5.jpg").write_bytes((tmp_path / "images" / "0.jpg").read_bytes())
    shutil.copy(tmp_path / "labels" / "0.png", tmp_path / "labels" / "5.png")
    assert with_own_files(own).own.digest != config.own.digest
    with pytest.raises(DataError, match=r"images.*labels.* same files"):
        open_data(config, DataFolders(tmp_path / "data"))


def test_another_number_of_own_classes_is_refused(own, tmp_path):
    config = with_own_files(own)
    other = dataclasses.replace(config, own=dataclasses.replace(config.own, classes=3))
    with pytest.raises(DataError, match=r"own-[0-9a-f]+.* 3 classes.* 2$"):
        open_data(other, DataFolders(tmp_path / "data"))


def test_own_files_without_a_digest_are_an_error_of_the_program(own, tmp_path):
    with pytest.raises(ValueError, match=r"own\.digest"):
        open_data(own, DataFolders(tmp_path / "data"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_a_labelled_pixel_is_refused(own, tmp_path, split):
    for number, name in enumerate(("train", "train", "val", "val", "val")):
        for folder, suffix in (("images", "jpg"), ("labels", "png")):
            (tmp_path / folder / name).mkdir(exist_ok=True)
            file = tmp_path / folder / f"{number}.{suffix}"
            file.rename(tmp_path / folder / name / file.name)
    for file in (tmp_path / "labels" / split).iterdir():
        Image.fromarray(np.full((7, 9), 255, np.uint8)).save(file)
    images = {"train": 2, "val": 3}[split]
    with pytest.raises(DataError, match=f"labelled pixel in {split}.* {images} images"):
        open_data(with_own_files(own), DataFolders(tmp_path / "data"))
