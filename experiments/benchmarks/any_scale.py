"""Compares scales with the nearest integer scale: `python -m experiments.benchmarks.any_scale`.

Prints a table in Markdown: :func:`carafe_jax.carafe` at scales from 0.4 to 2.7, forward and with
the gradients with respect to map and logits, beside the nearest of the scales 1/3, 1/2, 1, 2 and 3.
Both take the same logits, with ``up=2``. The nearest scale is that of the smallest ratio. The calls
of a map are timed in turns, in one process with memory kept; see
:mod:`experiments.benchmarks.processes`.
"""

import functools
from collections.abc import Iterator
from fractions import Fraction

import jax

import carafe_jax
from experiments.benchmarks import machine, processes
from experiments.benchmarks.calls import with_gradients
from experiments.benchmarks.markdown import megabytes, print_table
from experiments.benchmarks.passes import FORWARD, WITH_GRADIENT
from experiments.benchmarks.timing import Program, Timing, check_rounds, in_turns
from experiments.engine.command_line import run_program

INTEGERS = (Fraction(1, 3), Fraction(1, 2), Fraction(1), Fraction(2), Fraction(3))
SCALES = tuple(map(Fraction, ("0.4", "0.55", "0.74", "1.05", "1.3", "1.7", "1.98", "2.3", "2.7")))
# Maps [B, H, W, C] and their dtypes.
MAPS = (
    ((1, 50, 50, 256), "float32"),
    ((1, 50, 50, 256), "bfloat16"),
    ((4, 64, 64, 32), "float32"),
)

type Shape = tuple[int, int, int, int]


def nearest_integer(scale: Fraction) -> Fraction:
    """The scale of :data:`INTEGERS` whose ratio to ``scale`` is nearest to 1."""
    return min(INTEGERS, key=lambda other: max(scale / other, other / scale))


def times(shape: Shape, dtype: str, rounds: int) -> dict[str, dict[Fraction, Timing]]:
    """Times the calls of a map at all scales, by pass, in turns."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], shape, dtype)
    logits = jax.random.normal(keys[1], (*shape[:3], 4 * 25), dtype)
    forward, gradients = {}, {}
    for scale in (*INTEGERS, *SCALES):
        carafe = functools.partial(carafe_jax.carafe, up=2, scale=scale)
        y = jax.eval_shape(carafe, x, logits)
        dy = jax.random.normal(keys[2], y.shape, dtype)
        forward[str(scale)] = Program(carafe, (x, logits))
        gradients[str(scale)] = Program(with_gradients(carafe), (x, logits, dy))
    found = {FORWARD: in_turns(forward, rounds), WITH_GRADIENT: in_turns(gradients, rounds)}
    return {
        name: {Fraction(scale): timing for scale, timing in timings.items()}
        for name, timings in found.items()
    }


def rows(label: str, found: dict[str, dict[Fraction, Timing]]) -> Iterator[list[str]]:
    """The rows of a map, one for each scale that is no integer."""
    for number, scale in enumerate(SCALES):
        nearest = nearest_integer(scale)
        entries = []
        for timings in found.values():
            timing, reference = timings[scale], timings[nearest]
            ratio = timing.milliseconds / reference.milliseconds
            entries += [
                f"{timing.milliseconds:.2f} ({ratio:.2f})",
                f"{megabytes(timing.temporary_bytes, 1)} "
                f"({megabytes(reference.temporary_bytes, 1)})",
            ]
        yield ["" if number else label, f"{float(scale):g}", str(nearest), *entries]


def run(rounds: int = 5) -> None:
    """Prints the table.

    Args:
        rounds: number of turns of each call, of five calls, or one if it is slow; the table has the
            medians.
    """
    check_rounds(rounds)
    here = processes.call(machine.this_machine, "defaults")
    allocator = processes.or_defaults("memory kept", here.platform)

    def all_rows() -> Iterator[list[str]]:
        for shape, dtype in MAPS:
            found = processes.call(times, allocator, shape, dtype, rounds)
            yield from rows(f"{'x'.join(map(str, shape))}, {dtype}", found)

    print(processes.header(here, allocator))
    headings = ["", "scale", "nearest",
                *(f"{name}, {unit}" for name in (FORWARD, WITH_GRADIENT)
                  for unit in ("ms (times nearest)", "temporary MB (of nearest)"))]  # fmt: skip
    print_table(headings, 3, all_rows())


if __name__ == "__main__":
    run_program(run)
