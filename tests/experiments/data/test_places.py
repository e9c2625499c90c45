import io
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from experiments.data import places, prepared
from experiments.data.errors import DataError
from experiments.data.places import places_folder, prepare

LISTS = {
    "train": "/a/airfield/1.jpg 0\n/b/bar/2.jpg 3\n",
    "validation": "v.jpg 5\n",
    "test": "t.jpg\n",
}
FILES = {
    "train": ["data_256/a/airfield/1.jpg", "data_256/b/bar/2.jpg"],
    "validation": ["val_256/v.jpg"],
    "test": ["test_256/t.jpg"],
}


def jpeg(shade):
    encoded = io.BytesIO()
    Image.fromarray(np.full((256, 256, 3), shade, np.uint8)).save(encoded, "jpeg")
    return encoded.getvalue()


class Places365Small(tfds.builder_cls("places365_small"), skip_registration=True):
    """The real builder, with archives of a few images."""

    name = "places365_small"

    def _split_generators(self, dl_manager):
        generators = {}
        for split, names in FILES.items():
            listed = dl_manager.download_dir / f"{split}.txt"
            listed.write_text(LISTS[split])
            files = [(name, io.BytesIO(jpeg(50 + 100 * n))) for n, name in enumerate(names)]
            prefix = names[0].split("/")[0]
            generators[split] = self._generate_examples(files, prefix, split, listed)
        return generators


def test_a_prepared_dataset_is_found_and_read(tmp_path):
    Places365Small(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    folder = places_folder(tmp_path)
    assert folder == tmp_path / "places365_small" / "2.1.0"
    builder = tfds.builder_from_directory(folder)
    assert builder.info.features["label"].num_classes == 365
    source = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    records = {record["filename"].decode(): record for record in source}
    assert records.keys() == set(FILES["train"])
    assert records["data_256/b/bar/2.jpg"]["image"] == jpeg(150)
    assert records["data_256/b/bar/2.jpg"]["label"] == 3


def test_an_archive_that_is_not_the_published_one_is_named(tmp_path, monkeypatch, run_failing):
    archives = tmp_path / "archives"
    archives.mkdir()
    for name in ("train_256_places365standard.tar", "val_256.tar", "test_256.tar"):
        with tarfile.open(archives / name, "w"):
            pass
    monkeypatch.setattr(prepared, "find_spec", lambda module: module)
    options = "--data-dir", tmp_path / "data", "--archives", archives
    code, complaint = run_failing(places.main, *options)
    assert code == 2
    assert "error: the archives of Places365 are not available: " in complaint
    assert "_256.tar, has wrong checksum" in complaint


def test_nothing_prepared_names_the_command(tmp_path):
    message = r"places365_small.*python -m experiments\.data\.places --data-dir "
    with pytest.raises(DataError, match=message + str(tmp_path)):
        places_folder(tmp_path)


def test_preparing_names_missing_files(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=rf"archives.*{tmp_path}/none"):
        prepare(tmp_path, tmp_path / "none")
    monkeypatch.setattr(prepared, "find_spec", lambda module: None)
    with pytest.raises(DataError, match="pip install tensorflow"):
        prepare(tmp_path)
