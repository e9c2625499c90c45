import io
import json
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from experiments.data import imagenet
from experiments.data.imagenet import DataError, imagenet_folder, prepare


class Imagenet2012(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Name, version and features of the real one, and hardly any images."""

    VERSION = tfds.core.Version("5.1.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=["n01440764", "n01443537"]),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(6), "validation": self._generate_examples(3)}

    def _generate_examples(self, count):
        for number in range(count):
            encoded = io.BytesIO()
            Image.fromarray(np.full((30, 40, 3), 20 * number, np.uint8)).save(encoded, "jpeg")
            encoded.seek(0)
            name = f"{number}.JPEG"
            yield name, {"image": encoded, "label": number % 2, "file_name": name}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("imagenet")
    Imagenet2012(data_dir=data_dir, file_format="array_record").download_and_prepare()
    return data_dir


@pytest.fixture
def data_dir(prepared, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(prepared / "imagenet2012", tmp_path / "imagenet2012")
    return tmp_path


def edit_info(folder, change):
    path = folder / "dataset_info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def test_a_whole_data_set_is_found(prepared):
    folder = imagenet_folder(prepared)
    assert folder == prepared / "imagenet2012" / "5.1.0"
    builder = tfds.builder_from_directory(folder)
    assert builder.info.features["label"].names == ["n01440764", "n01443537"]
    decoders = {"image": tfds.decode.SkipDecoding()}
    source = builder.as_data_source("train", decoders=decoders)
    assert len(source) == 6
    assert {record["image"][:2] for record in source} == {b"\xff\xd8"}


def test_the_older_version_is_read_too(data_dir):
    (data_dir / "imagenet2012" / "5.1.0").rename(data_dir / "imagenet2012" / "5.0.0")
    folder = data_dir / "imagenet2012" / "5.0.0"
    edit_info(folder, lambda info: info.update(version="5.0.0"))
    assert imagenet_folder(data_dir) == folder


HOW = r"python -m experiments\.data\.imagenet --archives TARS --data-dir "


@pytest.mark.parametrize("there", [True, False])
def test_nothing_prepared_names_the_command(tmp_path, there):
    data_dir = tmp_path if there else tmp_path / "nothing"
    with pytest.raises(DataError, match=rf"data_dir must hold imagenet2012, got .*{HOW}{data_dir}"):
        imagenet_folder(data_dir)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("4.0.0", r"must hold version 5\.1\.0 or 5\.0\.0, got \['4\.0\.0'\]\. To prepare"),
        ("incomplete.XY_5.1.0", r"got \['incomplete.*its preparation did not end"),
    ],
)
def test_another_version_or_none_is_named(data_dir, found, message):
    (data_dir / "imagenet2012" / "5.1.0").rename(data_dir / "imagenet2012" / found)
    with pytest.raises(DataError, match=f"{message}.*{HOW}"):
        imagenet_folder(data_dir)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("dataset_info.json", r"lacks dataset_info\.json: its preparation did not end"),
        ("features.json", r"lacks features\.json: its preparation did not end"),
        (
            "imagenet2012-validation.array_record-00000-of-00001",
            r"lacks 1 of the 1 files of the split 'validation', the first is imagenet2012-valid",
        ),
    ],
)
def test_a_missing_file_is_named(data_dir, file, message):
    (data_dir / "imagenet2012" / "5.1.0" / file).unlink()
    with pytest.raises(DataError, match=f"{message}.*{HOW}"):
        imagenet_folder(data_dir)


def test_the_usual_format_is_refused(data_dir):
    folder = data_dir / "imagenet2012" / "5.1.0"
    edit_info(folder, lambda info: info.update(fileFormat="tfrecord"))
    with pytest.raises(DataError, match=f"as array_record.*, got tfrecord.*{HOW}"):
        imagenet_folder(data_dir)


def test_a_missing_split_is_named(data_dir):
    folder = data_dir / "imagenet2012" / "5.1.0"
    edit_info(folder, lambda info: info["splits"].pop())
    with pytest.raises(DataError, match=rf"split 'validation', got \['train'\].*{HOW}"):
        imagenet_folder(data_dir)


def test_preparing_names_what_is_missing(tmp_path, monkeypatch):
    (tmp_path / "ILSVRC2012_img_val.tar").touch()
    with pytest.raises(DataError, match=r"archives must hold .* lacks \['ILSVRC2012_img_train"):
        prepare(tmp_path, tmp_path / "data")
    (tmp_path / "ILSVRC2012_img_train.tar").touch()
    monkeypatch.setattr(imagenet, "find_spec", lambda module: None)
    with pytest.raises(DataError, match="pip install tensorflow"):
        prepare(tmp_path, tmp_path / "data")


def test_the_command_ends_with_a_message(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        imagenet.main(tmp_path, tmp_path / "data")
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith("error: archives must hold ILSVRC2012_img_train.tar")
