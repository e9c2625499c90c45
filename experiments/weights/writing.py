"""Writes files of weights for other libraries, without these libraries."""

import contextlib
import functools
import pickle
import secrets
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np
from safetensors.numpy import save

from experiments.engine.files import write_atomically
from experiments.engine.text import shown
from experiments.weights.dtypes import TORCH_DTYPES, TorchDtype
from experiments.weights.files import WeightsError

_AUTHOR = "carafe-jax"
_TORCH_DTYPE_OF = {dtype.numpy: dtype for dtype in TORCH_DTYPES.values() if dtype.numpy is not None}
# Without complex numbers of 128 and of 32 bits.
_SAFETENSORS = {
    np.dtype(dtype.numpy)
    for dtype in TORCH_DTYPES.values()
    if dtype.numpy is not None and dtype.name not in ("complex128", "complex32", "bcomplex32")
}
_FOLDER = "archive"  # of all members, as torch.save names it
_ALIGNMENT = 64  # bytes; PyTorch maps storages at this alignment
_HEADER, _FIELD, _ZIP64_FIELD = 30, 4, 20  # bytes of a member's header and of extra fields
_LARGEST_MEMBER = 2**30  # bytes; larger members get sizes of 64 bits
_PADDING = b"FB"  # identifier of the extra field with which PyTorch aligns members


def write_weights(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays to a file, whose suffix determines the format.

    - ``.safetensors``
    - ``.pth`` or ``.pt``: a state_dict, which ``torch.load`` reads also with ``weights_only=True``.
    - ``.pkl``: a pickle of NumPy arrays, which detectron2 reads.

    Either the whole file is written, or none. Equal arrays give equal files.

    Args:
        path: path of the file. Its folder is created; a file that exists is replaced.
        arrays: arrays by name, of dtypes that PyTorch has; for ``.pkl``, of NumPy's own dtypes.

    Raises:
        WeightsError: the suffix is unknown, an array has a dtype that the format lacks, or the file
            cannot be written.
    """
    write_files({path: arrays})


def write_files(files: Mapping[Path, Mapping[str, np.ndarray]]) -> None:
    """Writes the files of one network, as :func:`write_weights` writes a file.

    The files get their names after all of them are complete, so an error leaves none of them.

    Args:
        files: arrays by name, for the path of each file.

    Raises:
        WeightsError: see :func:`write_weights`.
    """
    for path, arrays in files.items():
        _check(path, arrays)
    with contextlib.ExitStack() as stack:
        temporaries = {}
        for path, arrays in files.items():
            with _errors_of(path):
                # Short, because the name of the file may have the greatest possible length.
                temporary = path.with_name(f".{secrets.token_hex(8)}.new")
                _, write = _WRITERS[path.suffix]
                write_atomically(temporary, functools.partial(write, arrays))
            stack.callback(temporary.unlink, missing_ok=True)
            temporaries[path] = temporary
        for path, temporary in temporaries.items():
            with _errors_of(path):
                temporary.replace(path)


def _check(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises ``WeightsError`` for an unknown suffix, or a dtype that the format lacks."""
    if path.suffix not in _WRITERS:
        raise WeightsError(
            f"the suffix of a file of weights must be one of {', '.join(SUFFIXES)}, got {path}"
        )
    dtypes, _ = _WRITERS[path.suffix]
    wrong = [
        f"{name}: {array.dtype}"
        for name, array in arrays.items()
        if array.dtype.newbyteorder("=") not in dtypes
    ]
    if wrong:
        raise WeightsError(
            f"{path} can hold numbers of {', '.join(sorted(each.name for each in dtypes))}; got "
            f"{shown(wrong)}"
        )


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Names a file in the errors of writing it."""
    try:
        yield
    except OSError as error:
        raise WeightsError(f"{path} cannot be written: {error.strerror or error}") from error


def _write_safetensors(arrays: Mapping[str, np.ndarray], file: IO[bytes]) -> None:
    # The library reads the memory of an array without regard to its strides. Readers of other
    # libraries need the metadata.
    contiguous = {name: np.ascontiguousarray(_little(array)) for name, array in arrays.items()}
    shaped = {name: array.reshape(arrays[name].shape) for name, array in contiguous.items()}
    file.write(save(shaped, metadata={"format": "pt"}))


def _write_torch(arrays: Mapping[str, np.ndarray], file: IO[bytes]) -> None:
    """Writes what ``torch.save`` writes for a state_dict of contiguous tensors."""
    with zipfile.ZipFile(file, "w") as archive:
        _write_member(archive, file, "data.pkl", b"".join(_torch_pickle(arrays)))
        _write_member(archive, file, "byteorder", b"little")
        for index, array in enumerate(arrays.values()):
            _write_member(archive, file, f"data/{index}", _bytes(array))
        _write_member(archive, file, "version", b"3\n")


def _write_member(
    archive: zipfile.ZipFile, file: IO[bytes], name: str, data: bytes | memoryview
) -> None:
    """Writes a member without compression, its content aligned."""
    info = zipfile.ZipInfo(f"{_FOLDER}/{name}")
    info.file_size = len(data)
    zip64 = info.file_size > _LARGEST_MEMBER
    start = file.tell() + _HEADER + len(info.filename) + _FIELD + (_ZIP64_FIELD if zip64 else 0)
    padding = -start % _ALIGNMENT
    info.extra = _PADDING + struct.pack("<H", padding) + b"Z" * padding
    with archive.open(info, "w", force_zip64=zip64) as member:
        member.write(data)


def _write_numpy(arrays: Mapping[str, np.ndarray], file: IO[bytes]) -> None:
    file.writelines(_numpy_pickle(arrays))


def _torch_pickle(arrays: Mapping[str, np.ndarray]) -> Iterator[bytes]:
    """Yields a pickle of a state_dict, in the opcodes that ``weights_only`` allows."""
    yield pickle.PROTO + b"\2"
    yield _global("collections", "OrderedDict") + _call()
    yield pickle.MARK
    for index, (name, array) in enumerate(arrays.items()):
        dtype = _TORCH_DTYPE_OF[array.dtype.newbyteorder("=")]
        storage, count = _storage(dtype), array.size
        if dtype.storage is None:
            count *= dtype.itemsize
        yield _text(name)
        version = "_rebuild_tensor_v2" if dtype.storage else "_rebuild_tensor_v3"
        yield _global("torch._utils", version)
        identifier = (_text("storage"), storage, _text(str(index)), _text("cpu"), _integer(count))
        strides = _strides(array.shape)
        arguments = [
            _tuple(*identifier) + pickle.BINPERSID,
            _integer(0),
            _tuple(*map(_integer, array.shape)),
            _tuple(*map(_integer, strides)),
            pickle.NEWFALSE,  # it requires no gradient
            _global("collections", "OrderedDict") + _call(),  # its hooks
        ]
        if dtype.storage is None:
            arguments.append(_global("torch", dtype.name))
        yield _call(*arguments)
    yield pickle.SETITEMS + pickle.STOP


def _numpy_pickle(arrays: Mapping[str, np.ndarray]) -> Iterator[bytes | memoryview]:
    """Yields a pickle of arrays by their names in all versions of NumPy."""
    yield pickle.PROTO + b"\4"
    yield pickle.EMPTY_DICT + pickle.MARK
    yield _text("model") + pickle.EMPTY_DICT + pickle.MARK
    for name, array in arrays.items():
        yield _text(name)
        yield _global("numpy.core.multiarray", "_reconstruct")
        yield _call(_global("numpy", "ndarray"), _tuple(_integer(0)), _binary(b"b"))
        code = array.dtype.str[1:]
        dtype = _global("numpy", "dtype") + _call(_text(code), pickle.NEWFALSE, pickle.NEWTRUE)
        order = _text("|" if array.itemsize == 1 else "<")
        rest = (*[pickle.NONE] * 3, _integer(-1), _integer(-1), _integer(0))
        yield pickle.MARK + _integer(1) + _tuple(*map(_integer, array.shape))
        yield dtype + _tuple(_integer(3), order, *rest) + pickle.BUILD
        yield pickle.NEWFALSE  # not in Fortran's order
        data = _bytes(array)
        yield pickle.BINBYTES8 + struct.pack("<Q", len(data))
        yield data
        yield pickle.TUPLE + pickle.BUILD
    yield pickle.SETITEMS
    yield _text("__author__") + _text(_AUTHOR)
    yield pickle.SETITEMS + pickle.STOP


def _storage(dtype: TorchDtype) -> bytes:
    """The opcodes for the class of a storage."""
    if dtype.storage is None:
        return _global("torch.storage", "UntypedStorage")
    return _global("torch", dtype.storage)


def _strides(shape: tuple[int, ...]) -> list[int]:
    """Strides of a contiguous tensor, in elements, as PyTorch counts them."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return strides[::-1]


def _bytes(array: np.ndarray) -> memoryview:
    """The bytes of an array in C order, least significant byte first."""
    return np.ascontiguousarray(_little(array)).reshape(-1).view(np.uint8).data


def _little(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _call(*arguments: bytes) -> bytes:
    return _tuple(*arguments) + pickle.REDUCE


def _tuple(*values: bytes) -> bytes:
    return pickle.MARK + b"".join(values) + pickle.TUPLE if values else pickle.EMPTY_TUPLE


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def _binary(data: bytes) -> bytes:
    return pickle.SHORT_BINBYTES + bytes([len(data)]) + data


def _integer(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return pickle.BININT + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return pickle.LONG1 + bytes([len(data)]) + data


_TORCH = {*_TORCH_DTYPE_OF}
_NUMPY = {dtype for dtype in _TORCH if dtype.isbuiltin == 1}
_WRITERS: dict[str, tuple[set[np.dtype], Callable[[Mapping[str, np.ndarray], IO[bytes]], None]]] = {
    ".safetensors": (_SAFETENSORS, _write_safetensors),
    ".pth": (_TORCH, _write_torch),
    ".pt": (_TORCH, _write_torch),
    ".pkl": (_NUMPY, _write_numpy),
}
# The suffixes of files that :func:`write_weights` writes.
SUFFIXES = (*_WRITERS,)
