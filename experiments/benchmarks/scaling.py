"""Measures how times grow with a map: `python -m experiments.benchmarks.scaling`.

Prints a table in Markdown: nanoseconds per element of the output, for each of the operator's three
contractions, as one of batch, height, width and channels grows. If a time is proportional to the
size of the map, its column is constant. The smallest case is measured once and has a row for each
axis. Runs on any JAX backend.

On a CPU with glibc, every case is measured twice: with the defaults of the allocator, and with
memory kept. See :mod:`experiments.benchmarks.processes`.
"""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence

from experiments.benchmarks import machine, markdown, processes
from experiments.benchmarks.calls import CONTRACTIONS, arrays, contractions, operator
from experiments.benchmarks.cases import Case
from experiments.benchmarks.processes import Allocator
from experiments.benchmarks.timing import Program, Timing, check_rounds, in_turns
from experiments.engine.command_line import run_program

_BASE = Case(1, 28, 28, 128, up=2)
_SIZES = {
    "batch": (1, 2, 4, 8, 16, 32),
    "height": (28, 56, 112, 224, 448, 896),
    "width": (28, 56, 112, 224, 448, 896),
    "channels": (64, 128, 256, 512, 1024, 2048),
}
CASES = tuple(_BASE.replace(**{axis: size}) for axis, sizes in _SIZES.items() for size in sizes)


def time_contractions(case: Case, rounds: int) -> dict[str, Timing]:
    """Times every contraction of a case in turns."""
    operands = arrays(case)
    functions = contractions(operator(case, None))
    programs = {name: Program(function, operands) for name, function in functions.items()}
    return in_turns(programs, rounds)


def run(rounds: int = 5) -> None:
    """Prints the table.

    Args:
        rounds: number of turns of each contraction, of five calls; the table has the medians.
    """
    check_rounds(rounds)
    print_table(CASES, rounds)


def print_table(cases: Sequence[Case], rounds: int) -> None:
    """Measures every case once and prints each row as soon as it is available."""
    here = processes.call(machine.this_machine, "defaults")
    kept = processes.or_defaults("memory kept", here.platform)
    allocators: list[Allocator] = ["defaults"] if kept == "defaults" else ["defaults", kept]

    @functools.cache
    def found(case: Case) -> list[dict[str, Timing]]:
        return [
            processes.call(time_contractions, allocator, case, rounds) for allocator in allocators
        ]

    print(processes.header(here, allocators[-1]))
    markdown.print_table(
        headings(len(allocators) > 1), 1, (entries(case, found(case)) for case in cases)
    )


def headings(keeps_memory: bool) -> list[str]:
    """Column headings; with ``keeps_memory`` also for the measurement with memory kept."""
    numbers = [*(f"{name}, ns" for name in CONTRACTIONS), "page faults"]
    kept = [f"memory kept, {number}" for number in numbers] if keeps_memory else []
    return ["up 2, k=5, float32", "output, MB", *numbers, *kept]


def entries(case: Case, found: Sequence[Mapping[str, Timing]]) -> Iterator[str]:
    """The entries of a row, from the times with the default allocator and with memory kept."""
    elements = math.prod(case.y_shape)
    yield "x".join(map(str, case.x_shape))
    yield f"{case.operands['dy'].nbytes / 1e6:.1f}"
    for times in found:
        yield from (f"{1e6 * timing.milliseconds / elements:.2f}" for timing in times.values())
        yield f"{sum(timing.page_faults for timing in times.values()):.0f}"


if __name__ == "__main__":
    run_program(run)
