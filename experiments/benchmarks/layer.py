"""CARAFE beside other layers, and where its time goes: `python -m experiments.benchmarks.layer`.

Prints two tables in Markdown. The first has the layer beside what else one would rescale a map
with, forward and with gradient by parameters and map. The second has the parts of the layer and
their gradients, each by itself. Runs unchanged on any JAX backend.

On a CPU with glibc the layer is measured twice: with the defaults of the allocator, as the other
layers, and where it keeps memory, as its parts. See :mod:`experiments.benchmarks.processes`.
"""

from collections.abc import Iterator, Mapping, Sequence

from experiments.benchmarks import processes
from experiments.benchmarks.cases import Case
from experiments.benchmarks.labels import label, matching
from experiments.benchmarks.layer_times import (
    CARAFE_LAYER,
    WHOLE,
    WHOLE_WITH_GRADIENT,
    Layers,
    beside,
    parts,
)
from experiments.benchmarks.markdown import head, row
from experiments.benchmarks.passes import FORWARD, WITH_GRADIENT
from experiments.benchmarks.timing import Calls, check_rounds
from experiments.engine.command_line import run_program

CASES = (
    Case(1, 50, 50, 256, up=2),
    Case(1, 100, 100, 256, down=2),
    Case(1, 50, 50, 256, up=4),
    Case(16, 32, 32, 64, up=2),
    Case(64, 14, 14, 256, up=2),
    Case(1, 50, 50, 256, up=2, dtype="bfloat16"),
    Case(1, 100, 100, 256, down=2, dtype="bfloat16"),
)


def run(cases: str = "", rounds: int = 5) -> None:
    """Prints the tables.

    Args:
        cases: only cases that have this in their label, such as "up 2" or "bfloat16".
        rounds: turns of five calls that each layer gets, or of one if it is slow; the median
            counts.
    """
    check_rounds(rounds)
    print_tables(matching(CASES, cases), rounds)


def print_tables(cases: Sequence[Case], rounds: int) -> None:
    """Measures cases and prints a case as soon as it is measured."""
    parts_of: dict[str, dict[str, Calls]] = {}
    for case in cases:
        found = processes.call(beside, False, case, rounds)
        keep_memory = processes.can_keep_memory(found.platform)
        times = processes.call(parts, keep_memory, case, rounds)
        if not parts_of:
            print(f"{found.machine}\n{processes.allocator(keep_memory)}\n")
            print(head(LAYER_HEADINGS, 2))
        parts_of[label(case)] = times
        for cells in layer_rows(case, found, times if keep_memory else None):
            print(row(cells), flush=True)
    print(f"\n{head(['ms', *next(iter(parts_of.values()))], 1)}")
    for name, times in parts_of.items():
        print(row([name, *(f"{calls.milliseconds:.2f}" for calls in times.values())]))


LAYER_HEADINGS = ["", "layer", "forward, ms", "times CARAFE", "page faults",
                  "with gradient, ms", "times CARAFE", "page faults"]  # fmt: skip


def layer_rows(case: Case, found: Layers, kept: Mapping[str, Calls] | None) -> Iterator[list[str]]:
    """Of the first table; ``kept`` has the times of CARAFE with memory kept."""
    forward, gradient = found.times[FORWARD], found.times[WITH_GRADIENT]
    layers = {name: (forward[name], gradient[name]) for name in forward}
    if kept is not None:
        own = {CARAFE_LAYER: layers.pop(CARAFE_LAYER)}
        own[f"{CARAFE_LAYER}, memory kept"] = kept[WHOLE], kept[WHOLE_WITH_GRADIENT]
        layers = {**own, **layers}
    for name, passes in layers.items():
        cells = [label(case) if name == CARAFE_LAYER else "", name]
        for calls, carafe in zip(passes, layers[CARAFE_LAYER], strict=True):
            cells += [
                f"{calls.milliseconds:.2f}",
                f"{calls.milliseconds / carafe.milliseconds:.2f}",
                f"{calls.page_faults:.0f}",
            ]
        yield cells


if __name__ == "__main__":
    run_program(run)
