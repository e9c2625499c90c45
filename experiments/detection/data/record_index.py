"""What has to be known of all records before the first batch: their orientation and objects."""

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

# Part of the key of a kept index: other rules, another number.
_RULES = 2

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class RecordIndex:
    """One entry for each record of a source.

    A record whose checksum is wrong counts as landscape and usable, so that it is met, and named.

    Attributes:
        image_id: COCO's; -1 where the record cannot be read.
        portrait: whether the image is taller than wide.
        objects: number of objects to train on, crowds among them; see
            :func:`experiments.detection.data.objects.is_trainable`.
        usable: whether one of them is no crowd, and can be trained on.
    """

    image_id: Int[np.ndarray, "records"]
    portrait: Bool[np.ndarray, "records"]
    objects: Int[np.ndarray, "records"]
    usable: Bool[np.ndarray, "records"]

    def __len__(self) -> int:
        """The number of records."""
        return len(self.portrait)


def index_records(source: Source) -> RecordIndex:
    """Reads every record once; no image is decoded.

    Args:
        source: of records as :mod:`experiments.data.coco` gives them.
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


def kept_index(source: Source, folder: Path, split: str) -> RecordIndex:
    """The index of a split of a prepared data set, which is kept beside the data.

    Of several processes the first makes it, and the others read it. Where the folder cannot be
    written to, each makes its own.

    Args:
        source: of the split.
        folder: of one version of the data set, as tfds prepared it.
        split: its name.
    """
    path = folder / f"record_index_{split}.npz"
    # The shards' lengths and sizes are in there, and so another data set has another.
    info = (folder / "dataset_info.json").read_bytes()
    key = hashlib.sha256(f"{_RULES} {split} {len(source)} ".encode() + info).hexdigest()

    def read_or_make() -> RecordIndex:
        index = _read(path, key)
        if index is None:
            _log.info("reading all %d records of %s once", len(source), folder)
            index = index_records(source)
            _keep(index, path, key)
        return index

    return primary_first(read_or_make)


def _read(path: Path, key: str) -> RecordIndex | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if str(arrays["key"]) != key:
                return None
            names = (field.name for field in dataclasses.fields(RecordIndex))
            return RecordIndex(**{name: arrays[name] for name in names})
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None  # none yet, or a damaged one


def _keep(index: RecordIndex, path: Path, key: str) -> None:
    arrays: dict[str, Any] = {"key": np.asarray(key), **vars(index)}
    try:
        write_atomically(path, lambda file: np.savez(file, **arrays))
    except OSError as error:
        _log.warning("the index of the records cannot be kept: %s", error)
