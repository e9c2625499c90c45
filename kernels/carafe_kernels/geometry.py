"""The source pixels that each output pixel reads. Only this module maps indices.

The output with index ``i'`` is centred on the source with index ``floor(i' * down / up)`` (section
3.1, 0-based). Its taps reach ``kernel_size // 2`` sources to either side. Along one axis this
pattern repeats: with ``up`` and ``down`` in lowest terms, it repeats after ``up`` outputs and
``down`` sources. Such a group of outputs and sources is called a *cell*, and the index of an output
in its cell is called its *phase*. Output ``up * q + phase`` of cell ``q`` is centred on source
``down * q + centre_offset(phase)``. Implementations compute all cells at once, so that each tap
reads one shifted view of the whole map.
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
    """A source that an output of cell ``q`` reads: ``source_phase`` of cell ``q + cell_shift``."""

    cell_shift: int
    source_phase: int


class Reader(NamedTuple):
    """An output phase and the tap with which it reads a source.

    The source is in cell ``q``, the output is in cell ``q + cell_shift``.
    """

    phase: int
    tap: int
    cell_shift: int


def positive_integer(name: str, value: int) -> int:
    """Returns ``value`` as an ``int``, or raises ``ValueError`` unless it is at least 1.

    Arrays of one integer are refused, also where their value is known: sizes of kernels and scales
    set shapes, which cannot depend on the values of an array inside ``jit``.
    """
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer and hasattr(value, "dtype"):
        raise ValueError(f"{name} must be a Python or NumPy integer, not an array, got {value!r}")
    if not is_integer or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)


def _divided_up(size: Dimension, divisor: int) -> Dimension:
    # JAX writes the output size of a strided convolution in this form. A symbolic size of a map
    # equals one of logits only if both are written the same way.
    return (size - 1) // divisor + 1


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Geometry of a reassembly: the sources that each output reads, the same for both axes.

    Args:
        kernel_size: side ``k`` of the reassembly kernel, odd.
        up: numerator of the scale.
        down: denominator of the scale.
        groups: number of channel groups, each with its own reassembly kernels.

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
        """``r`` of Eqn. 3: the largest distance of a tap from the centre."""
        return self.kernel_size // 2

    @property
    def taps(self) -> int:
        """Number of taps of one kernel, ``k * k``."""
        return self.kernel_size**2

    @property
    def weight_channels(self) -> int:
        """Number of channels of the weights: ``groups * k * k``, by group, then row-major taps."""
        return self.groups * self.taps

    @property
    def logit_channels(self) -> int:
        """Number of channels of the logits, ``up * up * groups * k * k``.

        The channel of ``tap`` of group ``g`` of the output with phases ``sy`` and ``sx`` is
        ``((sy * up + sx) * groups + g) * k * k + tap``.
        """
        return self.up**2 * self.weight_channels

    @property
    def lowest_terms(self) -> "Geometry":
        """The geometry of the same reassembly, with ``up`` and ``down`` in lowest terms."""
        divisor = math.gcd(self.up, self.down)
        return dataclasses.replace(self, up=self.up // divisor, down=self.down // divisor)

    def output_size(self, size: Dimension) -> Dimension:
        """Number of outputs along an axis of ``size`` sources, ``ceil(size * up / down)``."""
        return _divided_up(size * self.up, self.down)

    def cells(self, size: Dimension) -> Dimension:
        """Number of cells along an axis of ``size`` sources; logits have an entry for each."""
        return _divided_up(size, self.down)

    def centre(self, index: int) -> int:
        """Index of the source on which an output is centred, ``floor(index * down / up)``."""
        return index * self.down // self.up

    def phase_groups(self) -> tuple[PhaseGroup, ...]:
        """The output phases of a cell, grouped by the source on which they are centred."""
        groups: list[PhaseGroup] = []
        for phase in range(self.up):
            offset = self.centre(phase)
            if groups and groups[-1].centre_offset == offset:
                groups[-1] = groups[-1]._replace(stop=phase + 1)
            else:
                groups.append(PhaseGroup(offset, phase, phase + 1))
        return tuple(groups)

    def read(self, phase: int, tap: int) -> Read:
        """The source that ``tap`` of output ``phase`` reads, along one axis."""
        return Read(*divmod(self.centre(phase) + tap - self.radius, self.down))

    @property
    def halo(self) -> tuple[int, int]:
        """Numbers of cells before and after a cell that the outputs of the cell read."""
        first = self.read(0, 0).cell_shift
        last = self.read(self.up - 1, self.kernel_size - 1).cell_shift
        return -first, last

    def readers(self, source_phase: int) -> tuple[Reader, ...]:
        """All outputs that read source ``down * q + source_phase``, by tap and then by phase.

        This is the transpose of :meth:`read`: the gradient of the input is gathered from these
        outputs.
        """
        readers = []
        for tap in range(self.kernel_size):
            for phase in range(self.up):
                distance = source_phase + self.radius - tap - self.centre(phase)
                if distance % self.down == 0:
                    readers.append(Reader(phase, tap, distance // self.down))
        return tuple(readers)
