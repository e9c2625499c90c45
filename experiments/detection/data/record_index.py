"""An index of all records, needed before the first batch: their orientation and objects."""

import dataclasses
import hashlib
import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from experiments.data.records import RecordError, Source, read_record
from experiments.detection.data.images import is_portrait
from experiments.detection.data.objects import is_trainable
from experiments.engine.distributed import primary_first
from experiments.engine.files import write_atomically

# Part of the key of a cached index. Increase it when the contents of an index change.
_VERSION = 2

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class RecordIndex:
    """One entry for each record of a source.

    A record whose checksum is wrong counts as landscape and usable, so that training tries to read
    it and reports it.

    Attributes:
        image_id: COCO's id of the image; -1 if the record cannot be read.
        portrait: whether the image is taller than wide.
        objects: number of objects to train on, including crowds; see
            :func:`experiments.detection.data.objects.is_trainable`.
        usable: whether at least one of these objects is not a crowd.
    """

    image_id: Int[np.ndarray, "records"]
    portrait: Bool[np.ndarray, "records"]
    objects: Int[np.ndarray, "records"]
    usable: Bool[np.ndarray, "records"]

    def __len__(self) -> int:
        """The number of records."""
        return len(self.portrait)


def index_records(source: Source) -> RecordIndex:
    """Builds an index by reading every record once, without decoding images.

    Args:
        source: records in the format of :mod:`experiments.data.coco`.
    """
    count = len(source)
    index = RecordIndex(
        image_id=np.full(count, -1, np.int64),
        portrait=np.zeros(count, bool),
        objects=np.zeros(count, np.int32),
        usable=np.ones(count, bool),
    )
    for number in range(count):
        try:
            record = read_record(source, number)
        except RecordError:
            continue
        trainable = is_trainable(record)
        crowd = np.asarray(record["objects"]["is_crowd"], bool)
        index.image_id[number] = record["image_id"]
        index.portrait[number] = is_portrait(record["height"], record["width"])
        index.objects[number] = trainable.sum()
        index.usable[number] = (trainable & ~crowd).any()
    return index


def cached_index(source: Source, folder: Path, split: str) -> RecordIndex:
    """The index of a split of a prepared dataset, cached in the dataset's folder.

    The first process builds the index, and the others read its file. If the folder is not
    writable, every process builds its own index.

    Args:
        source: records of the split.
        folder: folder of one version of the dataset, as prepared by tfds.
        split: name of the split.
    """
    path = folder / f"record_index_{split}.npz"
    # This file contains the lengths and sizes of the shards, which differ between datasets.
    info = (folder / "dataset_info.json").read_bytes()
    key = hashlib.sha256(f"{_VERSION} {split} {len(source)} ".encode() + info).hexdigest()

    def read_or_build() -> RecordIndex:
        index = _read(path, key)
        if index is None:
            _log.info("reading all %d records of %s once", len(source), folder)
            index = index_records(source)
            _save(index, path, key)
        return index

    return primary_first(read_or_build)


def _read(path: Path, key: str) -> RecordIndex | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if str(arrays["key"]) != key:
                return None
            names = (field.name for field in dataclasses.fields(RecordIndex))
            return RecordIndex(**{name: arrays[name] for name in names})
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None  # no index yet, or a damaged one


def _save(index: RecordIndex, path: Path, key: str) -> None:
    arrays: dict[str, Any] = {"key": np.asarray(key), **vars(index)}
    try:
        write_atomically(path, lambda file: np.savez(file, **arrays))
    except OSError as error:
        _log.warning("the index of the records cannot be saved: %s", error)
