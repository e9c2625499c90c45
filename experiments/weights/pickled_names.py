"""The names that a pickle of weights may contain, and what they make."""

import functools
import math
import re
from collections.abc import Callable
from typing import Any

from experiments.engine.text import shown
from experiments.weights.binary import FormatError
from experiments.weights.dtypes import TORCH_DTYPES, TorchDtype
from experiments.weights.pickled_arrays import (
    Array,
    Dtype,
    Storage,
    Tensor,
    TypedStorage,
    checked_shape,
    invalid,
)
from experiments.weights.unpickling import Global, Inert, Raw, pairs


def _forbidden(name: str) -> FormatError:
    return FormatError(
        f"holds {shown(name)[1:-1]}, which is not safe to unpickle, beside or in place of tensors: "
        "if you trust it, save only its state_dict"
    )


def _strided(
    storage: TypedStorage,
    dtype: TorchDtype,
    offset: Any,
    shape: Any,
    strides: Any,
    metadata: Any = None,
) -> Tensor:
    """Describes a tensor after checking that it stays within its storage."""
    checked_shape(shape)
    # The strides of an axis of one element, or of an empty tensor, do not matter.
    if (
        type(strides) is not tuple
        or len(strides) != len(shape)
        or any(type(step) is not int for step in strides)
        or type(offset) is not int
        or offset < 0
        or any(step < 0 for step in strides)
    ):
        raise FormatError(
            f"is damaged or unsafe: a tensor of shape {list(shape)} has the strides "
            f"{shown(strides)} and the offset {shown(offset)}"
        )
    count = storage.count * storage.dtype.itemsize // dtype.itemsize
    elements = math.prod(shape)
    last = sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    if elements and (elements > count or offset + last >= count):
        raise FormatError(
            f"is damaged or unsafe: a tensor of shape {list(shape)}, strides {shown(strides)} and "
            f"offset {shown(offset)} has a storage of only {count:,} elements"
        )
    # Conjugated or negated when it is read.
    remark = " with values that are computed" if metadata else ""
    first = storage.first + offset * dtype.itemsize
    return Tensor(dtype, shape, storage.storage, first, strides, remark)


def _rebuild_tensor(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        case (TypedStorage() as storage, offset, shape, strides):
            metadata = None
        case (TypedStorage() as storage, offset, shape, strides, _, _):
            metadata = None
        case (TypedStorage() as storage, offset, shape, strides, _, _, metadata):
            pass
        case _:
            raise invalid("a tensor", arguments)
    return _strided(storage, storage.dtype, offset, shape, strides, metadata)


def _rebuild_tensor_of_dtype(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        case (TypedStorage() as storage, offset, shape, strides, _, _, Global() as dtype):
            metadata = None
        case (TypedStorage() as storage, offset, shape, strides, _, _, Global() as dtype, metadata):
            pass
        case _:
            raise invalid("a tensor", arguments)
    return _strided(storage, _torch_dtype(dtype), offset, shape, strides, metadata)


def _rebuild_quantized_tensor(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        case (TypedStorage() as storage, _, shape, _, _, _, _):
            return Tensor(storage.dtype, checked_shape(shape), remark=", quantized")
        case _:
            raise invalid("a quantized tensor", arguments)


def _rebuild_sparse_tensor(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        # Indices, values, shape; or compressed and plain indices, values, shape.
        case (Inert() as layout, (Tensor(), Tensor() as values, tuple() as shape, *_)):
            pass
        case (Inert() as layout, (Tensor(), Tensor(), Tensor() as values, tuple() as shape)):
            pass
        case _:
            raise invalid("a sparse tensor", arguments)
    return Tensor(values.dtype, checked_shape(shape), remark=f", {layout.name}")


def _rebuild_meta_tensor(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        case (Global() as dtype, shape, *_):
            remark = " without values"
            return Tensor(_torch_dtype(dtype), checked_shape(shape), remark=remark)
        case _:
            raise invalid("a tensor without values", arguments)


def _first_tensor(arguments: tuple[Any, ...]) -> Tensor:
    """A parameter, or a copy of a tensor of another device."""
    match arguments:
        case (Tensor() as tensor, *_):
            return tensor
        case _:
            raise invalid("a parameter", arguments)


_TENSORS = {
    f"torch._utils.{name}": call
    for name, call in {
        "_rebuild_tensor": _rebuild_tensor,
        "_rebuild_tensor_v2": _rebuild_tensor,
        "_rebuild_tensor_v3": _rebuild_tensor_of_dtype,
        "_rebuild_parameter": _first_tensor,
        "_rebuild_parameter_with_state": _first_tensor,
        "_rebuild_device_tensor_from_cpu_tensor": _first_tensor,
        "_rebuild_qtensor": _rebuild_quantized_tensor,
        "_rebuild_sparse_tensor": _rebuild_sparse_tensor,
        "_rebuild_meta_tensor_no_storage": _rebuild_meta_tensor,
    }.items()
}
_TENSOR_TYPES = ("torch.Tensor", "torch.nn.parameter.Parameter")


def _rebuild_with_attributes(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        case (Global() as function, Global() as kind, tuple() as inner, _):
            if kind.name not in _TENSOR_TYPES:
                raise _forbidden(kind.name)
            if function.name in _TENSORS:
                return _TENSORS[function.name](inner)
    raise invalid("a tensor with attributes", arguments)


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    match arguments:
        case ():
            return {}
        case (list() as items,) if all(
            type(item) in (list, tuple) and len(item) == 2 for item in items
        ):
            return pairs((key, value) for key, value in items)  # Python 2 passes the items
        case _:
            raise invalid("a dictionary", arguments)


def _encode(arguments: tuple[Any, ...]) -> Raw | str:
    match arguments:
        case (str() | Raw() as text, "latin1" | "latin-1"):
            return text
        case _:
            raise invalid("bytes", arguments)


def _bytes(arguments: tuple[Any, ...]) -> Raw | str:
    match arguments:
        case ():
            return ""
        case (str() | Raw() as data,) | (str() | Raw() as data, "latin1" | "latin-1"):
            return data
        case _:
            raise invalid("bytes", arguments)


def _numpy_dtype(arguments: tuple[Any, ...]) -> Dtype:
    match arguments:
        case (str() as name, *_) if re.fullmatch(r"[!-~]{1,32}", name):
            return Dtype(name)
        case (Global() as kind, *_) if kind.name.startswith("ml_dtypes."):
            return Dtype(kind.name.removeprefix("ml_dtypes."))
        case _:
            raise invalid("a dtype of NumPy", arguments)


def _numpy_array(arguments: tuple[Any, ...]) -> Array:
    match arguments:
        case (Global(name="numpy.ndarray"), _, _):
            return Array()
        case _:
            raise invalid("an array of NumPy", arguments)


def _numpy_from_buffer(arguments: tuple[Any, ...]) -> Array:
    match arguments:
        case (data, dtype, shape, "C" | "F" as order):
            array = Array()
            array.set_state((1, shape, dtype, order == "F", data))
            return array
        case _:
            raise invalid("an array of NumPy", arguments)


def _numpy_scalar(arguments: tuple[Any, ...]) -> Array:
    match arguments:
        case (dtype, data):
            array = Array()
            array.set_state((1, (), dtype, False, data))
            return array
        case _:
            raise invalid("a number of NumPy", arguments)


def _layout(arguments: tuple[Any, ...]) -> Inert:
    match arguments:
        case (str() as name,) if re.fullmatch(r"torch\.\w{1,20}", name):
            return Inert(name)
        case _:
            raise invalid("a layout of PyTorch", arguments)


def _size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    match arguments:
        case (tuple() as size,):
            return size
        case _:
            raise invalid("a size of PyTorch", arguments)


def _method(arguments: tuple[Any, ...]) -> Inert:
    # mmengine's buffers of losses name the functions of their own class.
    match arguments:
        case (Global(name=name), str()) if name == _HISTORY:
            return Inert(f"a method of {name}")
        case _:
            raise _forbidden("builtins.getattr")


_HISTORY = "mmengine.logging.history_buffer.HistoryBuffer"
# Objects beside the weights, whose content is ignored.
_INERT = (
    "argparse.Namespace",
    "builtins.complex",
    "builtins.frozenset",
    "builtins.set",
    "collections.Counter",
    "torch.device",
    _HISTORY,
)
_CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    **_TENSORS,
    "torch._tensor._rebuild_from_type_v2": _rebuild_with_attributes,
    "torch.serialization._get_layout": _layout,
    "torch.Size": _size,
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": lambda arguments: {},
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.getattr": _method,
    "_codecs.encode": _encode,
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray._reconstruct": _numpy_array,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy.core.numeric._frombuffer": _numpy_from_buffer,
}
_STORAGES = {
    f"torch.{dtype.storage}": dtype for dtype in TORCH_DTYPES.values() if dtype.storage
} | dict.fromkeys(("torch.UntypedStorage", "torch.storage.UntypedStorage"), TORCH_DTYPES["uint8"])
_CONSTANTS = (
    *_STORAGES,
    *(f"torch.{name}" for name in TORCH_DTYPES),
    *(f"ml_dtypes.{name}" for name in TORCH_DTYPES),
    *_TENSOR_TYPES,
    "torch.per_tensor_affine",
    "torch.per_channel_affine",
    "torch.per_channel_affine_float_qparams",
    "numpy.ndarray",
    # Functions in a collections.defaultdict.
    "builtins.dict",
    "builtins.float",
    "builtins.int",
    "builtins.list",
)
_GLOBALS = {
    **{name: Global(name) for name in _CONSTANTS},
    **{name: Global(name, call) for name, call in _CALLS.items()},
    **{name: Global(name, functools.partial(lambda name, _: Inert(name), name)) for name in _INERT},
}


def find(module: str, name: str) -> Global:
    """Returns what a pickle may name.

    Args:
        module: module of a class, function or constant; names of older versions are known.
        name: name of the object in its module.

    Raises:
        FormatError: weights do not need this object.
    """
    module = {"__builtin__": "builtins", "torch.cuda": "torch"}.get(module, module)
    full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
    if full not in _GLOBALS:
        raise _forbidden(full)
    return _GLOBALS[full]


def _torch_dtype(constant: Global) -> TorchDtype:
    found = TORCH_DTYPES.get(constant.name.removeprefix("torch."))
    if found is None:
        raise invalid("a tensor", (constant,))
    return found


class Storages:
    """The storages that the pickle of a file refers to.

    Args:
        locate: function from the name of a storage and its number of bytes to its position in the
            file; ``None`` if the position is not known yet.
    """

    def __init__(self, locate: Callable[[str, int], int | None]):
        self._locate = locate
        self.by_name: dict[str, Storage] = {}

    def load(self, identifier: Any) -> TypedStorage:
        """Returns the storage for an identifier in a pickle.

        Args:
            identifier: value in a pickle, which may be of any type.

        Raises:
            FormatError: PyTorch makes no such identifier, or the file lacks the storage.
        """
        match identifier:
            case ("storage", Global() as kind, str() as name, _, int() as count):
                view = None
            case ("storage", Global() as kind, str() as name, _, int() as count, view):
                pass
            case _:
                raise invalid("a storage", identifier)
        dtype = _STORAGES.get(kind.name)
        if dtype is None or count < 0:
            raise invalid("a storage", identifier)
        length = count * dtype.itemsize
        if name not in self.by_name:
            start = self._locate(name, length)
            self.by_name[name] = Storage(length, dtype.itemsize, start)
        storage = self.by_name[name]
        if storage.length != length:
            raise FormatError(
                f"is damaged: the storage {shown(name)} has {storage.length:,} bytes, and is used "
                f"as one of {length:,}"
            )
        if view is None:
            return TypedStorage(storage, dtype, 0, count)
        match view:  # PyTorch 0.x shared parts of storages
            case (_, int() as first, int() as part) if 0 <= first <= first + part <= count:
                return TypedStorage(storage, dtype, first * dtype.itemsize, part)
            case _:
                raise invalid("a part of a storage", view)
