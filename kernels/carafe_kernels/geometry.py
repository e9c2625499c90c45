"""Where each output pixel reads: the only place that maps indices.

An output index ``i'`` is centred on the source index ``floor(i' * down / up)``
(section 3.1, 0-based), and its taps reach ``kernel_size // 2`` to either side.
Along one axis this repeats: with ``up`` and ``down`` in lowest terms, ``up``
outputs belong to every ``down`` sources. We call such a group a *cell*; output
``up * q + phase`` of cell ``q`` is centred on source ``down * q +
centre_offset(phase)``. Every implementation loops over cells, so that a tap is
one shifted view of the whole map.
"""

import dataclasses
import math
import numbers
from typing import Any, NamedTuple

# A number of pixels: an int, or a symbolic size in an export of jax.export.
Dimension = Any


class PhaseGroup(NamedTuple):
    """Consecutive output phases ``start <= phase < stop`` that share one centre offset."""

    centre_offset: int
    start: int
    stop: int


class Read(NamedTuple):
    """A source that outputs of cell ``q`` read: ``source_phase`` of cell ``q + cell_shift``."""

    cell_shift: int
    source_phase: int


class Reader(NamedTuple):
    """A phase and tap by which outputs of cell ``q + cell_shift`` read a source of cell ``q``."""

    phase: int
    tap: int
    cell_shift: int


def positive_integer(name: str, value: int) -> int:
    """Returns ``value`` as an ``int``, or raises ``ValueError`` unless it is at least 1.

    Arrays of one integer are refused, also where their value is known: sizes of kernels and scales
    set shapes, which cannot depend on the values of an array inside ``jit``.
    """
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or value < 1:
        raise ValueError(
            f"{name} must be a Python or NumPy integer of at least 1, not an array, got {value!r}"
        )
    return int(value)


def _divided_up(size: Dimension, divisor: int) -> Dimension:
    # JAX writes the output size of a strided convolution in this form. A symbolic size of a map
    # equals one of logits only if both are written the same way.
    return (size - 1) // divisor + 1


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Shape of a reassembly: which sources each output reads, on both axes alike.

    Args:
        kernel_size: side ``k`` of the square neighbourhood, odd.
        up: numerator of the scale.
        down: denominator of the scale.
        groups: number of channel groups that have a kernel each.

    Raises:
        ValueError: a field is not an integer of at least 1, or ``kernel_size`` is even.
    """

    kernel_size: int = 5
    up: int = 1
    down: int = 1
    groups: int = 1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = positive_integer(field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {self.kernel_size}")

    @property
    def radius(self) -> int:
        """``r`` of Eqn. 3: how far a tap reaches from the centre."""
        return self.kernel_size // 2

    @property
    def taps(self) -> int:
        """Number of taps of one kernel, ``k * k``."""
        return self.kernel_size**2

    @property
    def weight_channels(self) -> int:
        """Channels of the weights: ``groups * k * k``, group-major, then row-major taps."""
        return self.groups * self.taps

    @property
    def logit_channels(self) -> int:
        """Channels of the logits: ``((sy * up + sx) * groups + g) * k * k + tap`` in order."""
        return self.up**2 * self.weight_channels

    @property
    def lowest_terms(self) -> "Geometry":
        """The same reassembly with the common divisor of ``up`` and ``down`` removed."""
        divisor = math.gcd(self.up, self.down)
        return dataclasses.replace(self, up=self.up // divisor, down=self.down // divisor)

    def output_size(self, size: Dimension) -> Dimension:
        """Output length of an axis of ``size`` sources, ``ceil(size * up / down)``."""
        return _divided_up(size * self.up, self.down)

    def cells(self, size: Dimension) -> Dimension:
        """Number of cells on an axis of ``size`` sources; also the side of the logits."""
        return _divided_up(size, self.down)

    def centre(self, index: int) -> int:
        """Source index on which output ``index`` is centred, ``floor(index * down / up)``."""
        return index * self.down // self.up

    def phase_groups(self) -> tuple[PhaseGroup, ...]:
        """The output phases of a cell, gathered by the source they are centred on."""
        groups: list[PhaseGroup] = []
        for phase in range(self.up):
            offset = self.centre(phase)
            if groups and groups[-1].centre_offset == offset:
                groups[-1] = groups[-1]._replace(stop=phase + 1)
            else:
                groups.append(PhaseGroup(offset, phase, phase + 1))
        return tuple(groups)

    def read(self, phase: int, tap: int) -> Read:
        """The source under ``tap`` of output ``phase``, on one axis."""
        return Read(*divmod(self.centre(phase) + tap - self.radius, self.down))

    @property
    def halo(self) -> tuple[int, int]:
        """How many cells before and after its own the outputs of a cell read from."""
        first = self.read(0, 0).cell_shift
        last = self.read(self.up - 1, self.kernel_size - 1).cell_shift
        return -first, last

    def readers(self, source_phase: int) -> tuple[Reader, ...]:
        """Everything that reads source ``down * q + source_phase``, by tap and then by phase.

        The transposed view of :meth:`centre`: the gradient of the input gathers along it.
        """
        readers = []
        for tap in range(self.kernel_size):
            for phase in range(self.up):
                distance = source_phase + self.radius - tap - self.centre(phase)
                if distance % self.down == 0:
                    readers.append(Reader(phase, tap, distance // self.down))
        return tuple(readers)
