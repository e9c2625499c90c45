"""The tensors and arrays in pickles of PyTorch and NumPy.

Their values stay in the file until they are read.
"""

import dataclasses
import math
import re
import sys
from io import BufferedReader
from typing import Any

import ml_dtypes  # noqa: F401 (registers the names of its dtypes in NumPy)
import numpy as np

from experiments.engine.text import shown
from experiments.weights.binary import FormatError, Span, read_bytes
from experiments.weights.dtypes import FLOATING, TORCH_DTYPES, TorchDtype
from experiments.weights.unpickling import Raw, type_name

_MOST_AXES = 64  # in PyTorch and NumPy
_LARGEST_BYTE = 0xC3  # of the characters of Latin-1 in UTF-8
_MOST_ELEMENTS = 2**48  # NumPy cannot even make an empty array [0, n] if n is too large


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
    def is_floating(self) -> bool:
        """Whether the values are floating-point numbers that :meth:`read` returns."""
        return self.dtype.is_floating and self.storage is not None and not self.remark

    @property
    def nbytes(self) -> int:
        """Number of bytes that :meth:`read` returns; 0 if there are no values to read."""
        return math.prod(self.shape) * self.dtype.itemsize if self.storage is not None else 0

    def read(self, file: BufferedReader, big_endian: bool) -> np.ndarray:
        """Reads the values.

        Args:
            file: file that holds the storage.
            big_endian: whether the bytes of a number in the file begin with the most significant.

        Raises:
            FormatError: NumPy has no such values, or the file became shorter.
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
        """Takes the byte order from NumPy's state.

        Args:
            state: value in a pickle, which may be of any type.

        Raises:
            FormatError: NumPy makes no such state.
        """
        match state:
            case (int(), "<" | ">" | "|" | "=" as order, *_):
                self.big_endian = order == ">"
            case _:
                raise invalid("a dtype of NumPy", state)

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
        """Takes shape, dtype and elements from NumPy's state.

        Args:
            state: value in a pickle, which may be of any type.

        Raises:
            FormatError: NumPy makes no such state, or the number of bytes does not fit the shape.
        """
        match state:
            case (int(), shape, Dtype() as dtype, bool() | int() as fortran, data):
                pass
            case _:
                raise invalid("an array of NumPy", state)
        count = math.prod(checked_shape(shape))
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
    def is_floating(self) -> bool:
        """Whether the values are floating-point numbers."""
        return self.dtype_name in FLOATING

    @property
    def nbytes(self) -> int:
        """Number of bytes that :meth:`read` returns; 0 if there are no numbers to read."""
        dtype = self.dtype.numpy if self.dtype else None
        return math.prod(self.shape) * dtype.itemsize if dtype else 0

    def read(self, file: BufferedReader, _: bool) -> np.ndarray:
        """Reads the values.

        Args:
            file: file that holds the pickle.

        Raises:
            FormatError: the values are no numbers, their bytes are damaged, or the file became
                shorter.
        """
        dtype = self.dtype.numpy if self.dtype else None
        if self.dtype is None or dtype is None:
            raise FormatError(f"holds an array of {self.dtype_name}, which are no numbers")
        data = self._bytes(file)
        if data.size != math.prod(self.shape) * dtype.itemsize:
            raise FormatError(f"is damaged: an array has {data.size:,} bytes, too many or few")
        data = _in_native_order(data, dtype, self.dtype.big_endian)
        if self.fortran:
            return data.reshape(self.shape, order="F").copy("C")
        return data.reshape(self.shape)

    def _bytes(self, file: BufferedReader) -> np.ndarray:
        try:
            if isinstance(self.data, str):
                return np.frombuffer(bytearray(self.data, "latin-1"), np.uint8)
            data = read_bytes(file, self.data.span)
            if not self.data.utf8:
                return data
            # One longer character would make the text take four times the memory.
            if data.size and data.max() > _LARGEST_BYTE:
                raise FormatError("is damaged: the text of an array is no Latin-1")
            return np.frombuffer(bytearray(str(data.data, "utf-8"), "latin-1"), np.uint8)
        except UnicodeError as error:
            raise FormatError("is damaged: the text of an array is no Latin-1") from error


def _in_native_order(data: np.ndarray, dtype: np.dtype, big_endian: bool) -> np.ndarray:
    """Converts bytes in the order of a file to elements in the order of this machine."""
    width = dtype.itemsize // (2 if "complex" in dtype.name else 1)
    if big_endian != (sys.byteorder == "big") and width > 1:
        data = data.view(f"u{width}").byteswap()
    return data.view(dtype)


def invalid(what: str, arguments: Any) -> FormatError:
    """Returns the error for an object that a pickle makes in an unknown way.

    Args:
        what: kind of the object, for the message.
        arguments: values from which the pickle makes the object.
    """
    found = [type_name(each) for each in arguments] if isinstance(arguments, tuple) else []
    return FormatError(f"is damaged or unsafe: its pickle makes {what} from {shown(found)}")


def checked_shape(values: Any) -> tuple[int, ...]:
    """Checks the shape of an array.

    Args:
        values: shape in a pickle, which may be any value.

    Returns:
        The shape, whose product is small enough for NumPy.

    Raises:
        FormatError: the values are no shape, or the shape of too many elements.
    """
    if (
        type(values) is not tuple
        or len(values) > _MOST_AXES
        or any(type(value) is not int or value < 0 for value in values)
        or math.prod(max(value, 1) for value in values) > _MOST_ELEMENTS
    ):
        raise FormatError(f"is damaged or unsafe: an array has the shape {shown(values)}")
    return values
