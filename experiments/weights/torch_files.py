"""Reads what ``torch.save`` and ``pickle`` wrote, without PyTorch."""

import dataclasses
from io import BufferedReader
from typing import Any

from experiments.engine.text import shown
from experiments.weights.archive import members
from experiments.weights.binary import Cursor, FormatError, Span
from experiments.weights.pickled_arrays import Array, Dtype
from experiments.weights.pickled_names import Storages, find
from experiments.weights.unpickling import Budget, type_name, unpickle

# The numbers with which torch.save began its files before version 1.6.
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
_BUILDABLE = (Array, Dtype)


@dataclasses.dataclass(frozen=True)
class Content:
    """What a file holds.

    Args:
        value: value of the pickle, made of plain containers, tensors and arrays.
        big_endian: whether the bytes of the numbers in tensors begin with the most significant.
    """

    value: Any
    big_endian: bool = False


def read_zip(file: BufferedReader, size: int) -> Content:
    """Reads what ``torch.save`` writes since version 1.6: a ZIP archive.

    Args:
        file: file that is open for reading.
        size: number of bytes of the file.

    Raises:
        FormatError: the file is damaged, of another kind or unsafe.
    """
    found = members(file, size)
    files = {name.rpartition("/")[2] for name in found}
    if "constants.pkl" in files:
        raise FormatError("is a program of TorchScript: save the state_dict of its module")
    pickles = [name for name in found if name.rpartition("/")[2] == "data.pkl"]
    if not pickles:
        names = shown(list(found)[:3])
        raise FormatError(f"is a ZIP archive that torch.save did not write: {names}")
    if len(pickles) > 1:
        raise FormatError(f"is damaged or unsafe: it has several pickles, {shown(pickles)}")
    folder = pickles[0].removesuffix("data.pkl")

    def locate(name: str, length: int) -> int:
        span = found.get(f"{folder}data/{name}")
        if span is None or span.length != length:
            has = "does not exist" if span is None else f"has {span.length:,} bytes"
            raise FormatError(
                f"is damaged: its member data/{shown(name)[1:-1]} of {length:,} bytes {has}"
            )
        return span.start

    order = found.get(f"{folder}byteorder", Span(0, 0))
    text = Cursor(file, order).read(min(order.length, 10))
    if text not in (b"", b"little", b"big"):
        raise FormatError(f"is damaged: its byte order is {text!r}")
    cursor = Cursor(file, found[pickles[0]])
    value = unpickle(cursor, Budget(), find, Storages(locate).load, _BUILDABLE)
    return Content(value, big_endian=text == b"big")


def read_pickle(file: BufferedReader, size: int) -> Content:
    """Reads a pickle, and the storages after it that ``torch.save`` wrote before version 1.6.

    Args:
        file: file that is open for reading.
        size: number of bytes of the file.

    Raises:
        FormatError: the file is damaged, of another kind or unsafe.
    """
    cursor, budget = Cursor(file, Span(0, size)), Budget()
    value = unpickle(cursor, budget, find, _no_storage, _BUILDABLE)
    if type(value) is not int or value != MAGIC_NUMBER:
        return Content(value)
    version = unpickle(cursor, budget, find, _no_storage, _BUILDABLE)
    if type(version) is not int or version != PROTOCOL_VERSION:
        raise FormatError(
            f"is of an unknown version of torch.save: expected {PROTOCOL_VERSION}, found "
            f"{shown(version) if type(version) is int else type_name(version)}"
        )
    unpickle(cursor, budget, find, _no_storage, _BUILDABLE)  # facts about the machine
    storages = Storages(lambda name, length: None)
    value = unpickle(cursor, budget, find, storages.load, _BUILDABLE)
    names = unpickle(cursor, budget, find, _no_storage, _BUILDABLE)
    if type(names) is not list:
        raise FormatError(f"is damaged: the names of its storages are {type_name(names)}")
    for name in names:
        storage = storages.by_name.get(name) if type(name) is str else None
        count = int.from_bytes(cursor.read(8), "little")
        if (
            storage is None
            or storage.start is not None
            or count * storage.itemsize != storage.length
        ):
            raise FormatError(
                f"is damaged: a storage of {count:,} elements before byte {cursor.position:,} is "
                "not the one that its tensors need"
            )
        storage.start = cursor.skip(storage.length).start
    missing = [name for name, storage in storages.by_name.items() if storage.start is None]
    if missing:
        raise FormatError(
            f"is damaged: it lacks {len(missing)} of its storages, such as {shown(missing[0])}"
        )
    return Content(value)


def _no_storage(identifier: Any) -> Any:
    raise FormatError("is damaged or unsafe: its pickle refers to data that no torch.save wrote")
