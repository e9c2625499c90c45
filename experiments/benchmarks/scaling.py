"""How times grow with a map: `python -m experiments.benchmarks.scaling`.

Prints a table in Markdown: nanoseconds for an element of the output, of each of the operator's
three contractions, as the batch, the height, the width or the channels of a map grow and all else
stays. Where a time is proportional to the size of the map, its column is constant. Runs unchanged
on any JAX backend.

On a CPU with glibc each is measured with the defaults of the allocator, and where it keeps memory.
See :mod:`experiments.benchmarks.processes`.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import jax

from experiments.benchmarks import machine, processes
from experiments.benchmarks.calls import contractions, operator
from experiments.benchmarks.cases import Case
from experiments.benchmarks.markdown import head, row
from experiments.benchmarks.operator_times import arrays
from experiments.benchmarks.timing import Calls, Program, check_rounds, in_turns
from experiments.engine.command_line import run_program

_BASE = Case(1, 28, 28, 128, up=2)
_SIZES = {
    "batch": (1, 2, 4, 8, 16, 32),
    "height": (28, 56, 112, 224, 448, 896),
    "width": (28, 56, 112, 224, 448, 896),
    "channels": (64, 128, 256, 512, 1024, 2048),
}
CASES = tuple(_BASE.replace(**{axis: size}) for axis, sizes in _SIZES.items() for size in sizes)


@dataclasses.dataclass(frozen=True)
class Scaled:
    """Times of one case.

    Attributes:
        platform: of JAX.
        machine: in words.
        times: by contraction.
    """

    platform: str
    machine: str
    times: dict[str, Calls]


def scaled(case: Case, rounds: int) -> Scaled:
    """Times every contraction of a case in turns."""
    operands = arrays(case)
    programs = {
        name: Program(function, operands)
        for name, function in contractions(operator(case, None)).items()
    }
    return Scaled(jax.default_backend(), machine.description(), in_turns(programs, rounds))


def run(rounds: int = 5) -> None:
    """Prints the table.

    Args:
        rounds: turns of five calls that each contraction gets; the median counts.
    """
    check_rounds(rounds)
    print_table(CASES, rounds)


def print_table(cases: Sequence[Case], rounds: int) -> None:
    """Measures cases and prints a case as soon as it is measured."""
    for number, case in enumerate(cases):
        found = [processes.call(scaled, False, case, rounds)]
        if processes.can_keep_memory(found[0].platform):
            found.append(processes.call(scaled, True, case, rounds))
        if not number:
            print(f"{found[0].machine}\n{processes.allocator(len(found) > 1)}\n")
            print(head([*headings(found)], 1))
        print(row(cells(case, found)), flush=True)


def headings(found: Sequence[Scaled]) -> Iterator[str]:
    """For a case with memory as it is, and kept where that was measured."""
    yield from ("up 2, k=5, float32", "output, MB")
    for kept, each in zip(("", "memory kept, "), found, strict=False):
        yield from (f"{kept}{name}, ns" for name in each.times)
        yield f"{kept}page faults"


def cells(case: Case, found: Sequence[Scaled]) -> Iterator[str]:
    """Of the row of a case."""
    elements = math.prod(case.y_shape)
    yield "x".join(map(str, case.x_shape))
    yield f"{case.operands['dy'].nbytes / 1e6:.1f}"
    for each in found:
        yield from (f"{1e6 * calls.milliseconds / elements:.2f}" for calls in each.times.values())
        yield f"{sum(calls.page_faults for calls in each.times.values()):.0f}"


if __name__ == "__main__":
    run_program(run)
