"""Times the deformable convolution: `python -m experiments.benchmarks.deformable_convolution`.

Prints a table in Markdown: a plain 3x3 convolution by :func:`carafe_jax.convolution.convolve`, the
modulated deformable convolution, and the same forward computation with the gradients of JAX's
automatic differentiation; forward and with the gradients of all operands. The three are timed in
turns, in a separate process for each shape, with memory kept; see
:mod:`experiments.benchmarks.processes`.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from carafe_jax.convolution import convolve
from experiments.benchmarks import machine, processes
from experiments.benchmarks.markdown import print_table
from experiments.benchmarks.passes import FORWARD, WITH_GRADIENT
from experiments.benchmarks.timing import Program, Timing, check_rounds, in_turns
from experiments.engine.command_line import run_program
from experiments.models.deformable_convolution import modulated_deformable_convolution
from experiments.models.deformable_sums import Geometry, sums_over_taps

PLAIN, OURS, AUTODIFF = "plain", "ours", "autodiff"


class Shape(NamedTuple):
    """A 3x3 convolution with stride and padding 1.

    Attributes:
        size: shape of the map, ``[B, H, W, C]``.
        features: number of output channels.
    """

    size: tuple[int, int, int, int]
    features: int

    @property
    def label(self) -> str:
        """The label of a table row."""
        return f"{'x'.join(map(str, self.size))} to {self.features}"


SHAPES = (Shape((1, 50, 84, 256), 256), Shape((1, 100, 168, 128), 128))
DTYPES = ("float32", "bfloat16")


class Measured(NamedTuple):
    """Time and memory of one function.

    Attributes:
        timing: its time and its temporary memory.
        operand_bytes: bytes of its arguments and results.
    """

    timing: Timing
    operand_bytes: int


def operands(shape: Shape, dtype: str) -> tuple[list[jax.Array], jax.Array]:
    """Random x, offsets, masks and kernel, and a cotangent of the result."""
    keys = jax.random.split(jax.random.key(0), 5)
    channels, pixels = shape.size[3], shape.size[:3]
    arrays = [
        jax.random.normal(keys[0], shape.size, dtype),
        2 * jax.random.normal(keys[1], (*pixels, 18)),
        jax.random.uniform(keys[2], (*pixels, 9)),
        jax.random.normal(keys[3], (3, 3, channels, shape.features), dtype),
    ]
    return arrays, jax.random.normal(keys[4], (*pixels, shape.features), dtype)


def _plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return convolve(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _with_gradients(function: Callable[..., jax.Array]) -> Callable[..., tuple[Any, ...]]:
    """A function of a cotangent and all operands that returns the output and all gradients."""

    def run(dy: jax.Array, *arrays: jax.Array) -> tuple[Any, ...]:
        y, pullback = jax.vjp(function, *arrays)
        return y, *pullback(dy)

    return run


def measure(shape: Shape, dtype: str, rounds: int) -> dict[str, dict[str, Measured]]:
    """Times the three functions, by pass and name, in turns."""
    arrays, dy = operands(shape, dtype)
    geometry = Geometry(stride=1, padding=1, dilation=1, groups=1, deformable_groups=1)
    functions: dict[str, tuple[Callable[..., jax.Array], list[jax.Array]]] = {
        PLAIN: (_plain, [arrays[0], arrays[3]]),
        OURS: (functools.partial(modulated_deformable_convolution, padding=1), arrays),
        AUTODIFF: (functools.partial(sums_over_taps, geometry), arrays),
    }
    programs = {
        FORWARD: {name: Program(run, args) for name, (run, args) in functions.items()},
        WITH_GRADIENT: {
            name: Program(_with_gradients(run), [dy, *args])
            for name, (run, args) in functions.items()
        },
    }

    def measured(by_name: dict[str, Program]) -> dict[str, Measured]:
        timings = in_turns(by_name, rounds)
        return {
            name: Measured(timings[name], program.operand_bytes)
            for name, program in by_name.items()
        }

    return {name: measured(by_name) for name, by_name in programs.items()}


def rows(label: str, found: dict[str, dict[str, Measured]]) -> Iterator[list[str]]:
    """The rows of a shape, one for each pass."""
    for name, by_name in found.items():
        plain = by_name[PLAIN].timing.milliseconds
        times = [
            f"{each.timing.milliseconds:.0f} ({each.timing.milliseconds / plain:.1f})"
            for each in (by_name[OURS], by_name[AUTODIFF])
        ]
        memory = [
            f"{(each.timing.temporary_bytes or 0) / each.operand_bytes:.1f}"
            for each in by_name.values()
        ]
        yield [label if name == FORWARD else "", name, f"{plain:.0f}", *times, *memory]


def run(rounds: int = 5) -> None:
    """Prints the table.

    Args:
        rounds: number of turns of each function, of five calls, or one if it is slow; the table
            has the medians.
    """
    check_rounds(rounds)
    here = processes.call(machine.this_machine, "defaults")
    allocator = processes.or_defaults("memory kept", here.platform)

    def all_rows() -> Iterator[list[str]]:
        for shape in SHAPES:
            for dtype in DTYPES:
                found = processes.call(measure, allocator, shape, dtype, rounds)
                yield from rows(f"{shape.label}, {jnp.dtype(dtype).name}", found)

    print(processes.header(here, allocator))
    kept = "" if allocator == "defaults" else f"{allocator}, "
    headings = ["", "pass", f"{kept}plain, ms", f"{kept}ours, ms (times plain)",
                f"{kept}autodiff, ms (times plain)"]  # fmt: skip
    headings += [f"{name}, temporaries / (in + out)" for name in (PLAIN, OURS, AUTODIFF)]
    print_table(headings, 2, all_rows())


if __name__ == "__main__":
    run_program(run)
