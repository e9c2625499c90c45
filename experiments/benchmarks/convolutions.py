"""Compares our convolutions with XLA's: `python -m experiments.benchmarks.convolutions`.

Prints a table in Markdown: convolutions of the layer's kernel predictor, of ResNet-50 and of a
feature pyramid, by :func:`carafe_jax.convolution.convolve` and by ``jax.lax``, forward and with the
gradients with respect to map and kernel. The two differ only on a CPU. They are timed in turns, in
a separate process for each shape, with memory kept; see :mod:`experiments.benchmarks.processes`.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax import lax

from carafe_jax.convolution import convolve
from experiments.benchmarks import machine, processes
from experiments.benchmarks.calls import with_gradients
from experiments.benchmarks.markdown import megabytes, print_table
from experiments.benchmarks.passes import FORWARD, WITH_GRADIENT
from experiments.benchmarks.timing import Program, Timing, check_rounds, in_turns
from experiments.engine.command_line import run_program

XLA, OURS = "XLA", "ours"


class Convolution(NamedTuple):
    """A convolution whose output has the size of the map divided by the stride.

    Attributes:
        where: name of the layer or network that contains it.
        size: shape of the map, ``[B, H, W, C]``.
        features: number of output channels.
        kernel_size: side of the kernel.
        stride: stride along both axes.
    """

    where: str
    size: tuple[int, int, int, int]
    features: int
    kernel_size: int
    stride: int = 1

    @property
    def label(self) -> str:
        """The label of a table row."""
        side = self.kernel_size
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        sizes = "x".join(map(str, self.size))
        return f"{self.where}: {side}x{side}{stride}, {sizes} to {self.features}"


CONVOLUTIONS = (
    Convolution("compressor", (1, 50, 50, 256), 64, 1),
    Convolution("compressor", (1, 100, 100, 256), 16, 1),
    Convolution("encoder", (1, 50, 50, 64), 100, 3),
    Convolution("encoder", (1, 100, 100, 16), 25, 3, 2),
    Convolution("encoder", (16, 32, 32, 64), 100, 3),
    Convolution("ResNet-50", (4, 56, 56, 64), 256, 1),
    Convolution("ResNet-50", (4, 14, 14, 1024), 256, 1),
    Convolution("ResNet-50", (4, 56, 56, 64), 64, 3),
    Convolution("ResNet-50", (4, 56, 56, 128), 128, 3, 2),
    Convolution("ResNet-50", (4, 14, 14, 256), 256, 3),
    Convolution("pyramid", (1, 80, 104, 256), 256, 3),
)
DTYPES = ("float32", "bfloat16")


def times(convolution: Convolution, dtype: str, rounds: int) -> dict[str, dict[str, Timing]]:
    """Times both implementations, by pass and name, in turns."""
    keys = jax.random.split(jax.random.key(0), 3)
    side, stride = convolution.kernel_size, convolution.stride
    x = jax.random.normal(keys[0], convolution.size, dtype)
    kernel = jax.random.normal(keys[1], (side, side, x.shape[3], convolution.features), dtype)
    options: dict[str, Any] = {
        "window_strides": (stride, stride),
        "padding": ((side // 2, side // 2),) * 2,
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    }
    functions = {
        XLA: functools.partial(lax.conv_general_dilated, **options),
        OURS: functools.partial(convolve, **options),
    }
    y = jax.eval_shape(functions[XLA], x, kernel)
    dy = jax.random.normal(keys[2], y.shape, y.dtype)
    forward = {name: Program(function, (x, kernel)) for name, function in functions.items()}
    gradients = {
        name: Program(with_gradients(function), (x, kernel, dy))
        for name, function in functions.items()
    }
    return {FORWARD: in_turns(forward, rounds), WITH_GRADIENT: in_turns(gradients, rounds)}


def rows(label: str, found: dict[str, dict[str, Timing]]) -> Iterator[list[str]]:
    """The rows of a convolution, one for each pass."""
    for name, timings in found.items():
        xla, ours = timings[XLA], timings[OURS]
        yield [
            label if name == FORWARD else "",
            name,
            f"{ours.milliseconds:.2f}",
            f"{xla.milliseconds:.2f} ({xla.milliseconds / ours.milliseconds:.1f})",
            megabytes(ours.temporary_bytes, 1),
            megabytes(xla.temporary_bytes, 1),
        ]


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
        for dtype in DTYPES:
            for convolution in CONVOLUTIONS:
                found = processes.call(times, allocator, convolution, dtype, rounds)
                yield from rows(f"{convolution.label}, {dtype}", found)

    print(processes.header(here, allocator))
    kept = "" if allocator == "defaults" else f"{allocator}, "
    headings = ["", "pass", f"{kept}ours, ms", f"{kept}XLA, ms (times ours)",
                "ours, temporary MB", "XLA, temporary MB"]  # fmt: skip
    print_table(headings, 2, all_rows())


if __name__ == "__main__":
    run_program(run)
