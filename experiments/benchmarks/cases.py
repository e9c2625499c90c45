"""The shapes and options that benchmarks call the operator with, without importing JAX."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.engine.config import check

_ITEMSIZES = {"float16": 2, "bfloat16": 2, "float32": 4}


class Moved(NamedTuple):
    """Bytes that each pass has to read or write at least once."""

    forward: int
    backward: int


class Operand(NamedTuple):
    """Shape and dtype of an operand."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * _ITEMSIZES[self.dtype]


@dataclasses.dataclass(frozen=True)
class Case:
    """A call of the operator: a map ``[batch, height, width, channels]`` and how it is rescaled.

    Attributes:
        dtype: dtype of the map.
        weights_dtype: dtype of given weights. ``carafe_jax.reassembly_kernels`` returns float32
            for every dtype of the map.
        normalizer: normaliser of the logits, or ``None`` if weights are given instead of logits.
    """

    batch: int
    height: int
    width: int
    channels: int
    kernel_size: int = 5
    up: int = 1
    down: int = 1
    groups: int = 1
    dtype: str = "float32"
    normalizer: str | None = None
    weights_dtype: str = "float32"

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Case":
        """The case that :meth:`to_json` converted."""
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def replace(self, **changes: Any) -> "Case":
        """A copy in which some fields have other values."""
        return dataclasses.replace(self, **changes)

    def __str__(self) -> str:
        """Scale, kernel size, groups and shape, without dtypes and normaliser."""
        factors = {"up": self.up, "down": self.down}
        parts = [f"{name} {factor}" for name, factor in factors.items() if factor > 1]
        parts.append(f"k={self.kernel_size}")
        if self.groups > 1:
            parts.append(f"g={self.groups}")
        return ", ".join([*parts, "x".join(map(str, self.x_shape))])

    @property
    def label(self) -> str:
        """The label of a table row, with the dtypes. Weights of float32 are not mentioned."""
        weights = f", weights {self.weights_dtype}" if self.weights_dtype != "float32" else ""
        return f"{self}, {self.dtype}{weights}"

    @property
    def operator(self) -> str:
        """Name of the function of ``carafe_jax`` that is called."""
        return "reassemble" if self.normalizer is None else "carafe"

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of both operators, and of ``Geometry``."""
        return {name: getattr(self, name) for name in ("kernel_size", "up", "down", "groups")}

    @property
    def kernels_dtype(self) -> str:
        """Dtype of the weights, or of the logits, which have the dtype of the map."""
        return self.weights_dtype if self.normalizer is None else self.dtype

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def taps(self) -> int:
        return self.kernel_size**2

    @property
    def out_size(self) -> tuple[int, int]:
        return -(-self.height * self.up // self.down), -(-self.width * self.up // self.down)

    @property
    def x_shape(self) -> tuple[int, ...]:
        return self.batch, self.height, self.width, self.channels

    @property
    def y_shape(self) -> tuple[int, ...]:
        return self.batch, *self.out_size, self.channels

    @property
    def weights_shape(self) -> tuple[int, ...]:
        return self.batch, *self.out_size, self.groups * self.taps

    @property
    def logits_shape(self) -> tuple[int, ...]:
        size = -(-self.height // self.down), -(-self.width // self.down)
        return self.batch, *size, self.up**2 * self.groups * self.taps

    @property
    def operands(self) -> dict[str, Operand]:
        """The map ``x``, the weights or logits ``kernels``, and a cotangent ``dy``."""
        kernels = self.weights_shape if self.normalizer is None else self.logits_shape
        return {
            "x": Operand(self.x_shape, self.dtype),
            "kernels": Operand(kernels, self.kernels_dtype),
            "dy": Operand(self.y_shape, self.dtype),
        }

    @property
    def moved(self) -> Moved:
        """Bytes of the operands and results, if each is read or written once."""
        x, kernels, y = (operand.nbytes for operand in self.operands.values())
        return Moved(forward=x + kernels + y, backward=(x + kernels + y) + (x + kernels))


def matching(cases: Sequence[Case], part: str) -> list[Case]:
    """The cases with ``part`` in their label; raises ``ConfigError`` if there are none."""
    found = [case for case in cases if part in case.label]
    check(bool(found), "cases", f"in one of {'; '.join(case.label for case in cases)}", part)
    return found
