"""PyTorch's dtypes, and those of NumPy with the same bits."""

import dataclasses

import ml_dtypes
import numpy as np


@dataclasses.dataclass(frozen=True, slots=True)
class TorchDtype:
    """A dtype of PyTorch.

    Args:
        name: name in PyTorch, such as ``"bfloat16"``.
        itemsize: number of bytes of an element.
        numpy: dtype of NumPy or ml_dtypes with the same bits; ``None`` if there is none.
        storage: class of PyTorch that holds elements of this dtype, such as ``"FloatStorage"``;
            ``None`` for a dtype whose elements are held as bytes, without a class of their own.
    """

    name: str
    itemsize: int
    numpy: np.dtype | None
    storage: str | None = None

    @property
    def is_floating(self) -> bool:
        """Whether networks compute with this dtype."""
        return self.name in FLOATING


# Names of the dtypes of networks, in PyTorch and NumPy.
FLOATING = {"float64", "float32", "float16", "bfloat16"}

# Quantised and packed values: their bits alone are no numbers.
_WITHOUT_NUMPY = {
    "qint8": (1, "QInt8Storage"),
    "qint32": (4, "QInt32Storage"),
    "quint8": (1, "QUInt8Storage"),
    "quint4x2": (1, "QUInt4x2Storage"),
    "quint2x4": (1, "QUInt2x4Storage"),
    "float4_e2m1fn_x2": (1, None),
    "bits8": (1, None),
    "bits16": (2, None),
    "bits1x8": (1, None),
    "bits2x4": (1, None),
    "bits4x2": (1, None),
}
_WITH_STORAGE = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "complex128": "ComplexDoubleStorage",
    "complex64": "ComplexFloatStorage",
}
_UNSIGNED = ("uint16", "uint32", "uint64")
_EIGHT_BITS = (
    "float8_e5m2",
    "float8_e4m3fn",
    "float8_e5m2fnuz",
    "float8_e4m3fnuz",
    "float8_e8m0fnu",
)
_HALF_COMPLEX = ("complex32", "bcomplex32")


def _if_known(name: str) -> np.dtype | None:
    """A dtype that ml_dtypes has since version 0.6."""
    found = getattr(ml_dtypes, name, None)
    return None if found is None else np.dtype(found)


TORCH_DTYPES = {
    dtype.name: dtype
    for dtype in (
        *(
            TorchDtype(name, np.dtype(name).itemsize, np.dtype(name), storage)
            for name, storage in _WITH_STORAGE.items()
        ),
        TorchDtype("bfloat16", 2, np.dtype(ml_dtypes.bfloat16), "BFloat16Storage"),
        *(TorchDtype(name, np.dtype(name).itemsize, np.dtype(name)) for name in _UNSIGNED),
        *(TorchDtype(name, 1, np.dtype(getattr(ml_dtypes, name))) for name in _EIGHT_BITS),
        *(TorchDtype(name, 4, _if_known(name)) for name in _HALF_COMPLEX),
        *(
            TorchDtype(name, itemsize, None, storage)
            for name, (itemsize, storage) in _WITHOUT_NUMPY.items()
        ),
    )
}
