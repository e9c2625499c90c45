"""Reads files of weights: safetensors, files of ``torch.save``, and pickles of NumPy arrays.

The kind of a file is recognised by its content, not by its suffix: both ``pytorch_model.bin`` and
``weights.pth`` are written by ``torch.save``. No file needs PyTorch, and none can run code.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401 (registers NumPy's bfloat16, which safetensors needs)
import numpy as np
from safetensors import safe_open

from experiments.engine.errors import UserError
from experiments.engine.text import shown
from experiments.weights.binary import FormatError
from experiments.weights.pickled_arrays import Array, Tensor
from experiments.weights.torch_files import Content, read_pickle, read_zip
from experiments.weights.unpickling import Key, type_name

# Keys of the state_dict in checkpoints of timm, torchvision, detectron2, mmdetection, Lightning and
# PyTorch's tutorials.
_KEYS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema")
_FLOATING = {"F64", "F32", "F16", "BF16"}
_HEAD_LENGTH = 512  # number of bytes by which the kind of a file is recognised
# The names of 100,000 tensors. The library allows 100 MB, which become gigabytes of Python objects.
_LARGEST_HEADER = 2**24
_LONGEST_NAME = 1000  # characters of the name of an array; names are compared part by part
_LONGEST_REASON = 200  # characters of an error of the library that are shown
# Tied weights are stored once and read several times. A file of a few megabytes could name one
# tensor 20,000 times, and fill the memory.
_MOST_SHARING = 4


class WeightsError(UserError, ValueError):
    """A file of weights is damaged, of another kind or model, or unsafe to read."""


class Entry(NamedTuple):
    """An array in a file, which is read on demand.

    Attributes:
        shape: shape of the array.
        dtype: dtype in the file, and other unusual properties of the array.
        is_floating: whether the values are floating-point numbers that :attr:`read` can return.
        read: function that returns the values in the precision of the file; bfloat16 may become
            float32. It raises ``WeightsError`` if the file is damaged, or NumPy has no such values.
    """

    shape: tuple[int, ...]
    dtype: str
    is_floating: bool
    read: Callable[[], np.ndarray]


@contextlib.contextmanager
def open_weights(path: Path) -> Iterator[dict[str, Entry]]:
    """Opens a file of weights.

    A pickle may have its ``state_dict`` under ``"state_dict"``, ``"model"``,
    ``"model_state_dict"``, ``"state_dict_ema"`` or ``"model_ema"``; a file with several of these is
    rejected, since they differ. Beside tensors and NumPy arrays, a pickle may hold plain values
    and a few objects whose content is ignored, such as ``argparse.Namespace``. A file with any
    other object is rejected, and nothing in a file is ever run.

    Args:
        path: path of a file from ``safetensors``, of a file that ``torch.save`` wrote, in its ZIP
            format or in the one before PyTorch 1.6, or of a pickle with NumPy arrays, as detectron2
            writes; with any suffix.

    Yields:
        The arrays by name. They can be read while the file is open.

    Raises:
        WeightsError: the file cannot be read, is damaged or of another kind, has no
            ``state_dict``, or has objects or sizes that are not safe to read.
    """
    with contextlib.ExitStack() as stack:
        with _errors_of(path):
            entries = stack.enter_context(_reader(path)(path))
            longest = max(map(len, entries), default=0)
            if longest > _LONGEST_NAME:
                raise FormatError(
                    f"is unsafe to read: an array has a name of {longest:,} characters, more than "
                    f"{_LONGEST_NAME:,}"
                )
        yield entries


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Names a file in the errors of reading it."""
    try:
        yield
    except FormatError as error:
        raise WeightsError(f"{path} {error}") from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error


def _reader(path: Path) -> Callable[[Path], contextlib.AbstractContextManager[dict[str, Entry]]]:
    """Returns the function that reads files with this content."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing" if not path.exists() else "no file"
        raise WeightsError(f"weights must be a file, got {found} at {path}")
    with path.open("rb") as file:
        head = file.read(_HEAD_LENGTH)
    text = head.lstrip().lower()
    if not head:
        raise WeightsError(f"{path} is damaged: it is empty")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"{path} is a pointer of Git LFS, not the weights: `git lfs pull` fetches them"
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise WeightsError(
            f"{path} is a web page, not the weights: on Hugging Face, the address of the file has "
            "/resolve/ where the address of its page has /blob/"
        )
    # A safetensors file starts with eight bytes of length, followed by a JSON header.
    header = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and header < 2**40:  # eight letters of text would be a larger number
        return _open_safetensors
    if head.startswith(b"PK"):
        return _open_zip
    # A pickle of protocol 2 to 5.
    if head[:1] == b"\x80" and head[1:2] in {b"\2", b"\3", b"\4", b"\5"}:
        return _open_pickle
    if text.removeprefix(b"\xef\xbb\xbf").startswith(b"{"):
        raise WeightsError(
            f"{path} is JSON, and holds no weights; the index of a checkpoint in several files "
            "names them: save their tensors in one file"
        )
    raise WeightsError(
        f"{path} is damaged, or of another kind: weights must be a file of safetensors, "
        f"torch.save or pickled NumPy arrays, got one that begins with {head[:8]!r}"
    )


@contextlib.contextmanager
def _open_safetensors(path: Path) -> Iterator[dict[str, Entry]]:
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > _LARGEST_HEADER:
        raise FormatError(
            f"is damaged or unsafe to read: its header has {header:,} bytes, more than the "
            f"{_LARGEST_HEADER:,} of 100,000 tensors"
        )
    try:
        # A mapped file that another process truncates would end this process.
        opened = safe_open(path, framework="np", backend="pread")
    except OSError:
        raise
    except Exception as error:
        raise FormatError(f"is damaged, or no safetensors file: {_reason(error)}") from error
    with opened as file:
        entries = {}
        for name in file.keys():  # noqa: SIM118 (the file is no mapping)
            array = file.get_slice(name)
            dtype = array.get_dtype()
            read = functools.partial(_read_safetensors, path, file, name)
            entries[name] = Entry(tuple(array.get_shape()), dtype, dtype in _FLOATING, read)
        yield entries


def _read_safetensors(path: Path, file: Any, name: str) -> np.ndarray:
    with _errors_of(path):
        try:
            return file.get_tensor(name)
        except OSError:
            raise
        except Exception as error:
            raise FormatError(f"has no readable array {shown(name)}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(error)[:_LONGEST_REASON]


def _open_zip(path: Path) -> contextlib.AbstractContextManager[dict[str, Entry]]:
    return _open_pickled(path, read_zip)


def _open_pickle(path: Path) -> contextlib.AbstractContextManager[dict[str, Entry]]:
    return _open_pickled(path, read_pickle)


@contextlib.contextmanager
def _open_pickled(
    path: Path, reader: Callable[[BufferedReader, int], Content]
) -> Iterator[dict[str, Entry]]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        content = reader(file, size)
        entries, total = {}, 0
        for name, value in _state_dict(content.value).items():
            if isinstance(name, Key) or not isinstance(value, Tensor | Array):
                name = name.value if isinstance(name, Key) else name
                raise _no_state_dict(f"{shown(name)} of type {type_name(value)}")
            read = functools.partial(_read_pickled, path, file, value, content.big_endian)
            entries[name] = Entry(value.shape, value.dtype_name, value.is_floating, read)
            total += value.nbytes
        if total > _MOST_SHARING * size:
            raise FormatError(
                f"is unsafe to read: its {len(entries):,} arrays share memory, and have "
                f"{total:,} bytes, more than {_MOST_SHARING} times the {size:,} of the file"
            )
        yield entries


def _read_pickled(
    path: Path, file: BufferedReader, array: Tensor | Array, big_endian: bool
) -> np.ndarray:
    with _errors_of(path):
        return array.read(file, big_endian)


def _state_dict(content: Any) -> Mapping[str | Key, Any]:
    for _ in _KEYS:  # nested, but not endlessly
        if not isinstance(content, Mapping):
            break
        found = [key for key in _KEYS if isinstance(content.get(key), Mapping)]
        if not found:
            return content
        if len(found) > 1:
            raise FormatError(
                f"must hold one state_dict, got {len(found)} under {found}: save the one "
                f"that you mean on its own, as `torch.load(...)[{found[0]!r}]`"
            )
        content = content[found[0]]
    raise _no_state_dict(type_name(content))


def _no_state_dict(found: str) -> FormatError:
    return FormatError(
        f"must hold a state_dict, tensors by name, alone or under one of {list(_KEYS)}; got {found}"
    )
