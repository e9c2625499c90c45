"""The arrays in pickles of PyTorch and NumPy, and the names that these pickles may contain.

A tensor or array is only described here: its values stay in the file until they are read.
"""

import dataclasses
import functools
import math
import re
import sys
from collections.abc import Callable
from io import BufferedReader
from typing import Any

import ml_dtypes  # noqa: F401 (registers the names of its dtypes in NumPy)
import numpy as np

from experiments.engine.text import shown
from experiments.weights.binary import FormatError, Span, read_bytes
from experiments.weights.dtypes import FLOATING, TORCH_DTYPES, TorchDtype
from experiments.weights.unpickling import Global, Inert, Raw, pairs, type_name

_MOST_AXES = 64  # in PyTorch and NumPy
_MOST_ELEMENTS = 2**48  # NumPy cannot even make an empty array [0, n] if n is too large
_LONGEST_CODE = 32  # characters of the name of a dtype


@dataclasses.dataclass(slots=True, eq=False)
class Storage:
    """Memory of PyTorch, which tensors share.

    Args:
        length: number of bytes.
        itemsize: number of bytes of an element of the tensor that was saved first.
        start: position in the file; ``None`` as long as it is unknown.
    """

    length: int
    itemsize: int
    start: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TypedStorage:
    """A part of a storage, seen as elements of a dtype.

    Args:
        storage: memory that holds the elements.
        dtype: dtype of the elements; uint8 if the storage holds bytes.
        first: position of the first element in the storage, in bytes.
        count: number of elements.
    """

    storage: Storage
    dtype: TorchDtype
    first: int
    count: int


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A tensor of PyTorch.

    Args:
        dtype: dtype of the elements.
        shape: shape of the tensor.
        storage: memory that holds the elements; ``None`` if the tensor has no values, or they are
            not stored one after another.
        offset: position of the first element in the storage, in bytes.
        strides: distance of neighbours along each axis, in elements.
        remark: unusual property of the tensor, for messages.
    """

    dtype: TorchDtype
    shape: tuple[int, ...]
    storage: Storage | None = None
    offset: int = 0
    strides: tuple[int, ...] = ()
    remark: str = ""

    @property
    def dtype_name(self) -> str:
        """The dtype and the remark, for messages."""
        return f"torch.{self.dtype.name}{self.remark}"

    @property
    def floats(self) -> bool:
        """Whether the values are floating-point numbers that :meth:`read` returns."""
        return self.dtype.floats and self.storage is not None and not self.remark

    def read(self, file: BufferedReader, big_endian: bool) -> np.ndarray:
        """Reads the values.

        Args:
            file: file that holds the storage.
            big_endian: whether the bytes of a number in the file begin with the most significant.
        """
        dtype = self.dtype.numpy
        if self.storage is None or self.storage.start is None or dtype is None or self.remark:
            raise FormatError(f"holds values of {self.dtype_name}, which NumPy cannot represent")
        if 0 in self.shape:
            return np.empty(self.shape, dtype)
        last = sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True))
        span = Span(self.storage.start + self.offset, (last + 1) * dtype.itemsize)
        data = _in_native_order(read_bytes(file, span), dtype, big_endian)
        # NumPy checks that the strides stay within the data.
        strides = tuple(
            step * dtype.itemsize if size > 1 else dtype.itemsize
            for size, step in zip(self.shape, self.strides, strict=True)
        )
        view = np.ndarray(self.shape, dtype, data, strides=strides)
        return view if view.flags.c_contiguous else view.copy()


@dataclasses.dataclass(slots=True, eq=False)
class Dtype:
    """A dtype of NumPy in a pickle, which gets its byte order after its name.

    Args:
        name: code or name of the dtype, such as ``"f4"`` or ``"bfloat16"``.
        big_endian: whether the bytes of a number begin with the most significant.
    """

    name: str
    big_endian: bool = False

    def set_state(self, state: Any) -> None:
        """Takes the byte order from NumPy's state."""
        match state:
            case (int(), "<" | ">" | "|" | "=" as order, *_):
                self.big_endian = order == ">"
            case _:
                raise _damaged("a dtype of NumPy", state)

    @property
    def numpy(self) -> np.dtype | None:
        """The dtype in native byte order; ``None`` if its elements are no numbers."""
        if re.fullmatch(r"b1|[iu][1248]|f[248]|c8|c16", self.name):
            return np.dtype(self.name)
        known = TORCH_DTYPES.get(self.name)
        return known.numpy if known else None


@dataclasses.dataclass(slots=True, eq=False)
class Array:
    """An array of NumPy in a pickle, which is completed after it was created.

    Args:
        shape: shape of the array.
        dtype: dtype of the elements; ``None`` as long as the array is not completed.
        fortran: whether neighbours along the first axis are adjacent, rather than along the last.
        data: bytes of the elements; a ``str`` holds bytes as characters of Latin-1.
    """

    shape: tuple[int, ...] = ()
    dtype: Dtype | None = None
    fortran: bool = False
    data: Raw | str = ""

    def set_state(self, state: Any) -> None:
        """Takes shape, dtype and elements from NumPy's state."""
        match state:
            case (int(), shape, Dtype() as dtype, bool() | int() as fortran, data):
                pass
            case _:
                raise _damaged("an array of NumPy", state)
        count = math.prod(_sizes(shape, "shape"))
        if dtype.numpy is not None:
            length = count * dtype.numpy.itemsize
            if isinstance(data, Raw):
                # UTF-8 needs one or two bytes for a character of Latin-1.
                shortest = -(-data.span.length // 2) if data.utf8 else data.span.length
                fits = shortest <= length <= data.span.length
            else:
                fits = isinstance(data, str) and len(data) == length
            if not fits:
                raise FormatError(
                    f"is damaged: an array of shape {list(shape)} and dtype {dtype.name} has "
                    f"another number of bytes than {length:,}"
                )
        self.shape, self.dtype, self.fortran = shape, dtype, bool(fortran)
        self.data = data if isinstance(data, Raw | str) else ""

    @property
    def dtype_name(self) -> str:
        """The dtype, for messages."""
        if self.dtype is None:
            return "no dtype"
        return self.dtype.numpy.name if self.dtype.numpy else self.dtype.name

    @property
    def floats(self) -> bool:
        """Whether the values are floating-point numbers."""
        return self.dtype_name in FLOATING

    def read(self, file: BufferedReader, _: bool) -> np.ndarray:
        """Reads the values.

        Args:
            file: file that holds the pickle.
        """
        dtype = self.dtype.numpy if self.dtype else None
        if self.dtype is None or dtype is None:
            raise FormatError(f"holds an array of {self.dtype_name}, which are no numbers")
        data = self._bytes(file)
        if data.size != math.prod(self.shape) * dtype.itemsize:
            raise FormatError(f"is damaged: an array has {data.size:,} bytes, too many or few")
        data = _in_native_order(data, dtype, self.dtype.big_endian)
        if self.fortran:
            return np.ascontiguousarray(data.reshape(self.shape, order="F"))
        return data.reshape(self.shape)

    def _bytes(self, file: BufferedReader) -> np.ndarray:
        try:
            if isinstance(self.data, str):
                return np.frombuffer(bytearray(self.data, "latin-1"), np.uint8)
            data = read_bytes(file, self.data.span)
            if not self.data.utf8:
                return data
            return np.frombuffer(bytearray(str(data.data, "utf-8"), "latin-1"), np.uint8)
        except UnicodeError as error:
            raise FormatError("is damaged: the text of an array is no Latin-1") from error


def _in_native_order(data: np.ndarray, dtype: np.dtype, big_endian: bool) -> np.ndarray:
    """Converts bytes in the order of a file to elements in the order of this machine."""
    width = dtype.itemsize // (2 if "complex" in dtype.name else 1)
    if big_endian != (sys.byteorder == "big") and width > 1:
        data = data.view(f"u{width}").byteswap()
    return data.view(dtype)


def _damaged(what: str, arguments: Any) -> FormatError:
    found = [type_name(each) for each in arguments] if isinstance(arguments, tuple) else []
    return FormatError(f"is damaged or unsafe: its pickle makes {what} from {shown(found)}")


def _forbidden(name: str) -> FormatError:
    return FormatError(
        f"holds {shown(name)[1:-1]}, which is not safe to unpickle, beside or in place of tensors: "
        "if you trust it, save only its state_dict"
    )


def _sizes(values: Any, what: str) -> tuple[int, ...]:
    """Checks the sizes or strides of an array."""
    if (
        type(values) is not tuple
        or len(values) > _MOST_AXES
        or any(type(value) is not int or value < 0 for value in values)
        or math.prod(max(value, 1) for value in values) > _MOST_ELEMENTS
    ):
        raise FormatError(f"is damaged or unsafe: an array has the {what} {shown(values)}")
    return values


def _strided(
    storage: TypedStorage,
    dtype: TorchDtype,
    offset: Any,
    shape: Any,
    strides: Any,
    metadata: Any = None,
) -> Tensor:
    """Describes a tensor after checking that it stays within its storage."""
    _sizes(shape, "shape")
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
            raise _damaged("a tensor", arguments)
    return _strided(storage, storage.dtype, offset, shape, strides, metadata)


def _rebuild_tensor_of_dtype(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        case (TypedStorage() as storage, offset, shape, strides, _, _, Global() as dtype):
            metadata = None
        case (TypedStorage() as storage, offset, shape, strides, _, _, Global() as dtype, metadata):
            pass
        case _:
            raise _damaged("a tensor", arguments)
    return _strided(storage, _torch_dtype(dtype), offset, shape, strides, metadata)


def _rebuild_quantized_tensor(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        case (TypedStorage() as storage, _, shape, _, _, _, _):
            return Tensor(storage.dtype, _sizes(shape, "shape"), remark=", quantized")
        case _:
            raise _damaged("a quantized tensor", arguments)


def _rebuild_sparse_tensor(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        # Indices, values, shape; or compressed and plain indices, values, shape.
        case (Inert() as layout, (Tensor(), Tensor() as values, tuple() as shape, *_)):
            pass
        case (Inert() as layout, (Tensor(), Tensor(), Tensor() as values, tuple() as shape)):
            pass
        case _:
            raise _damaged("a sparse tensor", arguments)
    return Tensor(values.dtype, _sizes(shape, "shape"), remark=f", {layout.name}")


def _rebuild_meta_tensor(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        case (Global() as dtype, shape, *_):
            remark = " without values"
            return Tensor(_torch_dtype(dtype), _sizes(shape, "shape"), remark=remark)
        case _:
            raise _damaged("a tensor without values", arguments)


def _first_tensor(arguments: tuple[Any, ...]) -> Tensor:
    """A parameter, or a copy of a tensor of another device."""
    match arguments:
        case (Tensor() as tensor, *_):
            return tensor
        case _:
            raise _damaged("a parameter", arguments)


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
    raise _damaged("a tensor with attributes", arguments)


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    match arguments:
        case ():
            return {}
        case (list() as items,) if all(
            type(item) in (list, tuple) and len(item) == 2 for item in items
        ):
            return pairs((key, value) for key, value in items)  # Python 2 passes the items
        case _:
            raise _damaged("a dictionary", arguments)


def _encode(arguments: tuple[Any, ...]) -> Raw | str:
    match arguments:
        case (str() | Raw() as text, "latin1" | "latin-1"):
            return text
        case _:
            raise _damaged("bytes", arguments)


def _bytes(arguments: tuple[Any, ...]) -> Raw | str:
    match arguments:
        case ():
            return ""
        case (str() | Raw() as data,) | (str() | Raw() as data, "latin1" | "latin-1"):
            return data
        case _:
            raise _damaged("bytes", arguments)


def _numpy_dtype(arguments: tuple[Any, ...]) -> Dtype:
    match arguments:
        case (str() as name, *_) if len(name) <= _LONGEST_CODE:
            return Dtype(name)
        case (Global() as kind, *_) if kind.name.startswith("ml_dtypes."):
            return Dtype(kind.name.removeprefix("ml_dtypes."))
        case _:
            raise _damaged("a dtype of NumPy", arguments)


def _numpy_array(arguments: tuple[Any, ...]) -> Array:
    match arguments:
        case (Global(name="numpy.ndarray"), _, _):
            return Array()
        case _:
            raise _damaged("an array of NumPy", arguments)


def _numpy_from_buffer(arguments: tuple[Any, ...]) -> Array:
    match arguments:
        case (data, dtype, shape, "C" | "F" as order):
            array = Array()
            array.set_state((1, shape, dtype, order == "F", data))
            return array
        case _:
            raise _damaged("an array of NumPy", arguments)


def _numpy_scalar(arguments: tuple[Any, ...]) -> Array:
    match arguments:
        case (dtype, data):
            array = Array()
            array.set_state((1, (), dtype, False, data))
            return array
        case _:
            raise _damaged("a number of NumPy", arguments)


def _layout(arguments: tuple[Any, ...]) -> Inert:
    match arguments:
        case (str() as name,) if re.fullmatch(r"torch\.\w{1,20}", name):
            return Inert(name)
        case _:
            raise _damaged("a layout of PyTorch", arguments)


def _size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    match arguments:
        case (tuple() as size,):
            return size
        case _:
            raise _damaged("a size of PyTorch", arguments)


def _method(arguments: tuple[Any, ...]) -> Inert:
    # mmengine's buffers of losses name the functions of their own class.
    match arguments:
        case (Global(name=name), str()) if name == _HISTORY:
            return Inert(f"a method of {name}")
        case _:
            raise _forbidden("builtins.getattr")


_HISTORY = "mmengine.logging.history_buffer.HistoryBuffer"
# Objects beside the weights, of which nothing is kept.
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
    # What a collections.defaultdict calls.
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
        raise _damaged("a tensor", (constant,))
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
        """Returns the storage for an identifier in a pickle."""
        match identifier:
            case ("storage", Global() as kind, str() as name, _, int() as count):
                view = None
            case ("storage", Global() as kind, str() as name, _, int() as count, view):
                pass
            case _:
                raise _damaged("a storage", identifier)
        dtype = _STORAGES.get(kind.name)
        if dtype is None or count < 0:
            raise _damaged("a storage", identifier)
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
                raise _damaged("a part of a storage", view)
