import io
import json
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from experiments.data import prepared
from experiments.data.prepared import (
    DataError,
    check_can_prepare,
    checked,
    prepared_folder,
)

HOW = "To prepare it, do this"


class Pictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("5.1.0")

    def _info(self):
        features = {"image": tfds.features.Image(encoding_format="jpeg")}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(6), "validation": self._generate_examples(3)}

    def _generate_examples(self, count):
        for number in range(count):
            encoded = io.BytesIO()
            Image.fromarray(np.full((30, 40, 3), 20 * number, np.uint8)).save(encoded, "jpeg")
            encoded.seek(0)
            yield number, {"image": encoded}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("prepared")
    Pictures(data_dir=data_dir, file_format="array_record").download_and_prepare()
    return data_dir


@pytest.fixture
def data_dir(built, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(built / "pictures", tmp_path / "pictures")
    return tmp_path


def find(data_dir):
    return prepared_folder(data_dir, "pictures", ("5.1.0", "5.0.0"), HOW)


def edit_info(folder, change):
    path = folder / "dataset_info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def test_a_complete_dataset_is_found(built):
    assert find(built) == built / "pictures" / "5.1.0"


def test_the_second_version_is_read_too_and_the_first_preferred(data_dir):
    older = data_dir / "pictures" / "5.0.0"
    shutil.copytree(data_dir / "pictures" / "5.1.0", older)
    edit_info(older, lambda info: info.update(version="5.0.0"))
    assert find(data_dir).name == "5.1.0"
    shutil.rmtree(data_dir / "pictures" / "5.1.0")
    assert find(data_dir) == older


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("text", ["", "3", "[" * 100_000, '{"name": 10, "numBytes": 1e999}'])
def test_damaged_json_is_named_in_one_line(data_dir, name, text):
    (data_dir / "pictures" / "5.1.0" / name).write_text(text)
    with pytest.raises(DataError, match=r"^[^\n]*pictures/5\.1\.0[^\n]*do this$"):
        find(data_dir)


@pytest.mark.parametrize("there", [True, False])
def test_a_missing_dataset_is_reported(tmp_path, there):
    data_dir = tmp_path if there else tmp_path / "nothing"
    with pytest.raises(DataError, match=rf"data_dir.*pictures.*{data_dir}.*{HOW}$"):
        find(data_dir)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("4.0.0", r"5\.1\.0.*5\.0\.0.*\['4\.0\.0'\]"),
        ("incomplete.XY_5.1.0", r"incomplete\.XY_5\.1\.0.*did not end"),
    ],
)
def test_another_version_or_none_is_named(data_dir, found, message):
    (data_dir / "pictures" / "5.1.0").rename(data_dir / "pictures" / found)
    with pytest.raises(DataError, match=f"{message}.*{HOW}$"):
        find(data_dir)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("dataset_info.json", r"dataset_info\.json.*did not end"),
        ("features.json", r"features\.json.*did not end"),
        (
            "pictures-validation.array_record-00000-of-00001",
            r" 1 .*'validation'.*pictures-validation",
        ),
    ],
)
def test_a_missing_file_is_named(data_dir, file, message):
    (data_dir / "pictures" / "5.1.0" / file).unlink()
    with pytest.raises(DataError, match=f"{message}.*{HOW}$"):
        find(data_dir)


def test_the_usual_format_is_refused(data_dir):
    edit_info(data_dir / "pictures" / "5.1.0", lambda info: info.update(fileFormat="tfrecord"))
    with pytest.raises(DataError, match=rf"array_record.* tfrecord.*{HOW}$"):
        find(data_dir)


def test_a_missing_split_is_named(data_dir):
    edit_info(data_dir / "pictures" / "5.1.0", lambda info: info["splits"].pop())
    with pytest.raises(DataError, match=rf"'validation'.*\['train'\].*{HOW}$"):
        find(data_dir)


def test_preparing_without_tensorflow(monkeypatch):
    monkeypatch.setattr(prepared, "find_spec", lambda module: None)
    with pytest.raises(DataError, match="pip install tensorflow"):
        check_can_prepare()


def test_other_splits_can_be_required(built):
    folder = built / "pictures" / "5.1.0"
    assert checked(folder, ("train",)) == folder
    with pytest.raises(DataError, match=r"'test'.*\['train', 'validation'\]"):
        checked(folder, ("test",))
