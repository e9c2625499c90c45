"""Reads files of weights that PyTorch or safetensors wrote.

The kind of a file is recognised by its content, not by its suffix: both ``pytorch_model.bin`` and
``weights.pth`` are written by ``torch.save``.
"""

import argparse
import contextlib
import functools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp  # noqa: F401 (registers NumPy's bfloat16, which safetensors needs)
import numpy as np
from safetensors import safe_open

from experiments.engine.errors import UserError

# Keys of the state_dict in checkpoints of timm, torchvision, Lightning and PyTorch's tutorials.
_KEYS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema")
# Counters of PyTorch, in BatchNorm and in averages of models, which inference does not need.
_COUNTERS = ("num_batches_tracked", "n_averaged")
_FLOATING = {"F64", "F32", "F16", "BF16"}
_TORCH_FLOATING = {"torch.float64", "torch.float32", "torch.float16", "torch.bfloat16"}
_ALTERNATIVE = (
    "`safetensors.torch.save_file(state_dict, 'weights.safetensors')`, run where it is installed, "
    "writes a file that can be read without it"
)
_HEAD_LENGTH = 512  # number of bytes by which the kind of a file is recognised
_MAX_REASON_LENGTH = 200  # largest length of PyTorch's errors that is shown


class WeightsError(UserError, ValueError):
    """A file of weights is damaged, of another kind or model, or unsafe to read."""


class Entry(NamedTuple):
    """An array in a file, which is read on demand.

    Attributes:
        shape: shape of the array.
        dtype: dtype in the file, and other unusual properties of the array.
        floats: whether :attr:`read` can return the values: they are dense and floating-point.
        read: function that returns the values in the precision of the file; bfloat16 may become
            float32.
    """

    shape: tuple[int, ...]
    dtype: str
    floats: bool
    read: Callable[[], np.ndarray]


@contextlib.contextmanager
def open_weights(path: Path, counters: bool = False) -> Iterator[dict[str, Entry]]:
    """Opens a file of weights.

    A file of ``torch.save`` may have its ``state_dict`` under ``"state_dict"``, ``"model"``,
    ``"model_state_dict"``, ``"state_dict_ema"`` or ``"model_ema"``; a file with several of these is
    rejected, since they differ. Reading it needs PyTorch 2.6 or newer, because older versions could
    run pickled code; only tensors, plain Python values and ``argparse.Namespace`` are unpickled.

    Args:
        path: path of a file from ``safetensors`` or ``torch.save``, with any suffix.
        counters: whether PyTorch's counters, which are integers, are among the arrays.

    Yields:
        The arrays by name. They can be read while the file is open.

    Raises:
        WeightsError: the file cannot be read, is damaged or of another kind, has no
            ``state_dict`` or objects that are not safe to unpickle, or needs a version of PyTorch
            that is not installed.
    """
    try:
        with _reader(path)(path) as entries:
            left_out = () if counters else _COUNTERS
            yield {name: entries[name] for name in entries if not name.endswith(left_out)}
    except WeightsError:
        raise
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
    # A pickle of protocol 2 to 5, which torch.save wrote before version 1.6.
    if head[:1] == b"\x80" and head[1:2] in {b"\2", b"\3", b"\4", b"\5"}:
        return _open_pickle
    if text.removeprefix(b"\xef\xbb\xbf").startswith(b"{"):
        raise WeightsError(
            f"{path} is JSON, and holds no weights; the index of a checkpoint in several files "
            "names them: save their tensors in one file"
        )
    raise WeightsError(
        f"{path} is damaged, or of another kind: weights must be a file of safetensors or "
        f"torch.save, got one that begins with {head[:8]!r}"
    )


@contextlib.contextmanager
def _open_safetensors(path: Path) -> Iterator[dict[str, Entry]]:
    try:
        opened = safe_open(path, framework="np")
    except OSError:
        raise
    except Exception as error:
        raise WeightsError(f"{path} is damaged, or no safetensors file: {error}") from error
    with opened as file:
        entries = {}
        for name in file.keys():  # noqa: SIM118 (the file is no mapping)
            array = file.get_slice(name)
            dtype = array.get_dtype()
            read = functools.partial(file.get_tensor, name)
            entries[name] = Entry(tuple(array.get_shape()), dtype, dtype in _FLOATING, read)
        yield entries


@contextlib.contextmanager
def _open_zip(path: Path) -> Iterator[dict[str, Entry]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except OSError:
        raise
    except Exception as error:  # altered bytes make zipfile raise several types
        raise WeightsError(f"{path} is damaged, or no file of torch.save: {error}") from error
    files = {member.filename.rpartition("/")[2] for member in members}
    if "constants.pkl" in files:
        raise WeightsError(f"{path} is a program of TorchScript: save the state_dict of its module")
    if "data.pkl" not in files:
        shown = [member.filename for member in members[:3]]
        raise WeightsError(f"{path} is a ZIP archive that torch.save did not write: {shown}")
    unpacked, size = sum(member.file_size for member in members), path.stat().st_size
    if unpacked > size:  # a file of some kilobytes could fill the memory
        raise WeightsError(
            f"{path} unpacks to {unpacked:,} bytes and has {size:,}: torch.save does not compress"
        )
    with _open_pickle(path) as entries:
        yield entries


@contextlib.contextmanager
def _open_pickle(path: Path) -> Iterator[dict[str, Entry]]:
    yield {name: _entry(tensor) for name, tensor in _unpickled(path).items()}


def _unpickled(path: Path) -> Mapping[str, Any]:
    """Reads the tensors of a file of torch.save, by name."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library is missing
        raise WeightsError(
            f"{path} needs PyTorch to be read, which cannot be imported ({error}); {_ALTERNATIVE}"
        ) from error
    if torch.__version__ < (2, 6):
        raise WeightsError(
            f"{path} needs PyTorch 2.6 or newer to be read, as pickled code can run in version "
            f"{torch.__version__}; {_ALTERNATIVE}"
        )
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            # timm and torchvision save the options of the training too.
            torch.serialization.safe_globals([argparse.Namespace]),
        ):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # altered bytes make PyTorch raise many types
        if refused := re.search(r"\bGLOBAL (\S+)", str(error)):
            raise WeightsError(
                f"{path} holds {refused[1]}, which is not safe to unpickle, beside or in place of "
                "tensors: if you trust it, save only its state_dict"
            ) from error
        reason = " ".join(str(error).rpartition("WeightsUnpickler error:")[2].split())
        raise WeightsError(
            f"{path} is damaged, or no file of torch.save: {reason[:_MAX_REASON_LENGTH]}"
        ) from error
    tensors = _state_dict(path, content)
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise _no_state_dict(path, f"{name!r} of type {type(tensor).__name__}")
    return tensors


def _state_dict(path: Path, content: Any) -> Mapping[str, Any]:
    for _ in _KEYS:  # nested, but not endlessly
        if not isinstance(content, Mapping):
            break
        found = [key for key in _KEYS if isinstance(content.get(key), Mapping)]
        if not found:
            return content
        if len(found) > 1:
            raise WeightsError(
                f"{path} must hold one state_dict, got {len(found)} under {found}: save the one "
                f"that you mean on its own, as `torch.load(...)[{found[0]!r}]`"
            )
        content = content[found[0]]
    raise _no_state_dict(path, type(content).__name__)


def _no_state_dict(path: Path, found: str) -> WeightsError:
    return WeightsError(
        f"{path} must hold a state_dict, tensors by name, alone or under one of {list(_KEYS)}; "
        f"got {found}"
    )


def _entry(tensor: Any) -> Entry:
    import torch

    def read() -> np.ndarray:
        # NumPy has no bfloat16.
        taken = tensor.to(torch.float32) if tensor.dtype == torch.bfloat16 else tensor
        return taken.numpy(force=True)

    dtype = str(tensor.dtype)
    floats = dtype in _TORCH_FLOATING
    if tensor.layout != torch.strided:
        dtype, floats = f"{dtype}, {tensor.layout}", False
    elif tensor.is_meta:
        dtype, floats = f"{dtype} without values", False
    return Entry(tuple(tensor.shape), dtype, floats, read)
