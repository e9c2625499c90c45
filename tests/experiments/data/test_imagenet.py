import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from experiments.data import imagenet, prepared
from experiments.data.errors import DataError
from experiments.data.imagenet import imagenet_folder, prepare


class Imagenet2012(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Has name, version and features of the real builder, and a few images."""

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


def test_a_complete_dataset_is_found(tmp_path):
    Imagenet2012(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    folder = imagenet_folder(tmp_path)
    assert folder == tmp_path / "imagenet2012" / "5.1.0"
    builder = tfds.builder_from_directory(folder)
    assert builder.info.features["label"].names == ["n01440764", "n01443537"]
    decoders = {"image": tfds.decode.SkipDecoding()}
    source = builder.as_data_source("train", decoders=decoders)
    assert len(source) == 6
    assert {record["image"][:2] for record in source} == {b"\xff\xd8"}


def test_nothing_prepared_names_the_command(tmp_path):
    command = r"python -m experiments\.data\.imagenet --archives TARS --data-dir "
    message = rf"data_dir.*imagenet2012.*{command}{tmp_path}"
    with pytest.raises(DataError, match=message):
        imagenet_folder(tmp_path)


def test_preparing_names_missing_files(tmp_path, monkeypatch):
    (tmp_path / "ILSVRC2012_img_val.tar").touch()
    with pytest.raises(DataError, match=r"archives.*ILSVRC2012_img_train"):
        prepare(tmp_path, tmp_path / "data")
    (tmp_path / "ILSVRC2012_img_train.tar").touch()
    monkeypatch.setattr(prepared, "find_spec", lambda module: None)
    with pytest.raises(DataError, match="pip install tensorflow"):
        prepare(tmp_path, tmp_path / "data")


def test_the_command_ends_with_a_message(tmp_path, run_failing):
    code, message = run_failing(imagenet.main, "--archives", tmp_path)
    assert code == 2
    assert message.startswith("error: archives must hold ILSVRC2012_img_train.tar")
