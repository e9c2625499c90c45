"""The source pixels that each output pixel reads. Only this module maps indices.

The output with index ``i'`` is centred on the source with index ``floor(i' * down / up)`` (section
3.1, 0-based). Its taps reach ``kernel_size // 2`` sources to either side. Along one axis this
pattern repeats: with ``up`` and ``down`` in lowest terms, it repeats after ``up`` outputs and
``down`` sources. Such a group of outputs and sources is called a *cell*, and the index of an output
in its cell is called its *phase*. Output ``up * q + phase`` of cell ``q`` is centred on source
``down * q + centre_offset(phase)``. Implementations compute all cells at once, so that each tap
reads one shifted view of the whole map.

At any rational scale ``s`` the rule is the same: output ``i'`` is centred on source
``floor(i' / s)``. For most scales the pattern repeats late or not at all, and :class:`Axis` lists
the centres instead.
"""

import dataclasses
import functools
import math
import numbers
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

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


@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis that is rescaled by any rational scale ``s``, in integer arithmetic.

    Args:
        sources: number of sources, at least 1.
        scale: the scale ``s``, positive.
    """

    sources: int
    scale: Fraction

    @property
    def outputs(self) -> int:
        """Number of outputs, ``ceil(sources * scale)``."""
        return math.ceil(self.sources * self.scale)

    def centres(self, field_up: int = 1) -> Int[np.ndarray, "outputs"]:
        """The index on which each output is centred, ``floor(i' * field_up / s)``.

        Args:
            field_up: number of entries for each source. 1 gives indices of sources. The ``up`` of a
                kernel predictor gives indices of predicted kernels; their sources are those of the
                outputs, since ``floor(floor(i' * up / s) / up) = floor(i' / s)``.
        """
        step, unit = self._step(field_up)
        return np.array([index * step // unit for index in range(self.outputs)], int)

    def remainders(self, field_up: int) -> Float[np.ndarray, "outputs"]:
        """``i' * field_up / s - floor(i' * field_up / s)`` of each output, in ``[0, 1)``."""
        step, unit = self._step(field_up)
        return np.array([index * step % unit / unit for index in range(self.outputs)])

    def _step(self, field_up: int) -> tuple[int, int]:
        # Integers of Python: the floor of a float may be off by one, and int64 may overflow.
        return (field_up / self.scale).as_integer_ratio()

    def outputs_by_source(self, radius: int = 0) -> Int[np.ndarray, "sources_and_margin slots"]:
        """The outputs that are centred on each source, in ascending order.

        Args:
            radius: number of rows to add before the first and after the last source. No output is
                centred there.

        Returns:
            One row for each source, as long as the longest. Other rows are filled up with the
            number of outputs, which is no index of an output.
        """
        return outputs_by_index(self.centres(), self.sources, radius)


def outputs_by_index(
    indices: Int[np.ndarray, "outputs"], size: int, radius: int = 0
) -> Int[np.ndarray, "size_and_margin slots"]:
    """The positions at which each index stands in a list that does not descend.

    Args:
        indices: the list, of indices below ``size``.
        size: number of indices.
        radius: number of rows to add before the first and after the last index.

    Returns:
        One row for each index, as long as the longest. Other rows are filled up with the length of
        the list.
    """
    every = np.arange(-radius, size + radius)
    first = np.searchsorted(indices, every)
    count = np.searchsorted(indices, every, side="right") - first
    slots = np.arange(count.max(initial=1))
    return np.where(slots < count[:, None], first[:, None] + slots, len(indices))


# Up to this integer, a scale and its reciprocal are computed in cells. A program for cells has a
# term for each tap and pair of phases; fractions and large integers compile faster from lists of
# centres, and run as fast.
_LARGEST_FACTOR_OF_CELLS = 4


@dataclasses.dataclass(frozen=True)
class Resize:
    """A map that is rescaled by any rational scales.

    Args:
        rows: the axis of the rows.
        columns: the axis of the columns.
    """

    rows: Axis
    columns: Axis

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the output."""
        return self.rows.outputs, self.columns.outputs

    def crops(self, geometry: Geometry) -> bool:
        """Whether the output is that of ``geometry``, or lacks only some of its last outputs.

        Fewer than ``up`` rows and fewer than ``up`` columns may be missing. Each output takes the
        kernel of the field that ``geometry`` gives it.
        """
        axes = self.rows, self.columns
        return geometry.down == 1 and all(_crops(axis, geometry.up) for axis in axes)

    def in_cells(self, geometry: Geometry) -> Geometry | None:
        """``geometry`` with the ``up`` and ``down`` of both axes, or of a crop; or ``None``.

        ``None`` means that the axes have no common scale that is a small integer or its reciprocal.
        """
        up, down = self.rows.scale.as_integer_ratio()
        if self.columns.scale != self.rows.scale or min(up, down) > 1:
            up, down = max(math.ceil(axis.scale) for axis in (self.rows, self.columns)), 1
            if not self.crops(dataclasses.replace(geometry, up=up, down=down)):
                return None
        if max(up, down) > _LARGEST_FACTOR_OF_CELLS:
            return None
        return dataclasses.replace(geometry, up=up, down=down)


@functools.cache
def _crops(axis: Axis, up: int) -> bool:
    missing = up * axis.sources - axis.outputs
    return 0 <= missing < up and np.array_equal(axis.centres(up), np.arange(axis.outputs))
