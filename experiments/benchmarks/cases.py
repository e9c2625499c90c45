"""What the benchmarks call the operator with: shapes, without JAX."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.engine.config import check

_ITEMSIZES = {"float16": 2, "bfloat16": 2, "float32": 4}


class Moved(NamedTuple):
    """Bytes that have to move once, in each pass."""

    forward: int
    backward: int


class Operand(NamedTuple):
    """An array that a case is called with."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * _ITEMSIZES[self.dtype]


@dataclasses.dataclass(frozen=True)
class Case:
    """A map ``[batch, height, width, channels]``, how it is rescaled, and with which kernels.

    Attributes:
        dtype: of the map.
        weights_dtype: of the weights, where they are given: float32 is what
            ``carafe_jax.reassembly_kernels`` gives for every dtype of a map.
        normalizer: what logits become weights by, or ``None`` where weights are given.
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
        """Of what :meth:`to_json` gave."""
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def replace(self, **changes: Any) -> "Case":
        """A case of which some fields differ."""
        return dataclasses.replace(self, **changes)

    def __str__(self) -> str:
        """Scale, kernel size, groups and shape, without dtypes and normalizer."""
        factors = {"up": self.up, "down": self.down}
        parts = [f"{name} {factor}" for name, factor in factors.items() if factor > 1]
        parts.append(f"k={self.kernel_size}")
        if self.groups > 1:
            parts.append(f"g={self.groups}")
        return ", ".join([*parts, "x".join(map(str, self.x_shape))])

    @property
    def label(self) -> str:
        """A row's label, with the dtype of the map, and of weights that are not in float32."""
        weights = f", weights {self.weights_dtype}" if self.weights_dtype != "float32" else ""
        return f"{self}, {self.dtype}{weights}"

    @property
    def operator(self) -> str:
        """The function of ``carafe_jax`` that is called."""
        return "reassemble" if self.normalizer is None else "carafe"

    @property
    def options(self) -> dict[str, Any]:
        """Keywords of both operators, and of ``Geometry``."""
        return {name: getattr(self, name) for name in ("kernel_size", "up", "down", "groups")}

    @property
    def kernels_dtype(self) -> str:
        """Of the weights, or of logits: those are as the convolutions of the map gave them."""
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
        places = -(-self.height // self.down), -(-self.width // self.down)
        return self.batch, *places, self.up**2 * self.groups * self.taps

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
        """Bytes of operands that are read and of results that are written, each once."""
        x, kernels, y = (operand.nbytes for operand in self.operands.values())
        return Moved(forward=x + kernels + y, backward=(x + kernels + y) + (x + kernels))


def matching(cases: Sequence[Case], part: str) -> list[Case]:
    """The cases that have ``part`` in their label; raises ``ConfigError`` if none has."""
    found = [case for case in cases if part in case.label]
    check(bool(found), "cases", f"in one of {'; '.join(case.label for case in cases)}", part)
    return found
