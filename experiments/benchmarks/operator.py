"""The operator beside what else computes the same: `python -m experiments.benchmarks.operator`.

Prints two tables in Markdown, in which a case is a row for each pass. The first has our operator,
patches and einsum in XLA, and, where PyTorch is installed, unfold and einsum in PyTorch and a loop
over taps, channels first and last. The second has our three contractions as shares of what the same
machine copies and multiplies. Runs unchanged on any JAX backend.

Gradients are those for a cotangent that is given, and those of two losses. If a compiler fuses the
elementwise gradient of a loss by the output into the contractions, and the forward pass with it, it
computes both many times: then the rows of the losses are slower by far.

On a CPU with glibc our operator is measured twice: with the defaults of the allocator, as all else,
and where it keeps memory. See :mod:`experiments.benchmarks.processes`.
"""

import math
from collections.abc import Iterator, Sequence

from experiments.benchmarks import processes, pytorch
from experiments.benchmarks.cases import Case
from experiments.benchmarks.labels import label, matching
from experiments.benchmarks.markdown import digits, head, row
from experiments.benchmarks.operator_times import (
    OURS,
    PATCHES,
    Beside,
    Own,
    array_bytes,
    beside,
    own,
)
from experiments.benchmarks.passes import FORWARD
from experiments.benchmarks.timing import check_rounds
from experiments.engine.command_line import run_program

CASES = (
    Case(1, 50, 50, 256, up=2),
    Case(1, 100, 100, 256, down=2),
    Case(1, 50, 50, 256, kernel_size=3, up=2),
    Case(1, 50, 50, 256, kernel_size=7, up=2),
    Case(1, 100, 100, 256, kernel_size=7, down=2),
    Case(1, 50, 50, 256, up=4),
    Case(16, 32, 32, 64, up=2),
    Case(16, 64, 64, 32, down=2),
    Case(64, 14, 14, 256, up=2),
    Case(1, 28, 28, 512, up=2),
    Case(1, 28, 28, 1024, up=2),
    Case(4, 28, 28, 512, up=2),
    Case(4, 28, 28, 1024, up=2),
    Case(4, 28, 28, 512, down=2),
    Case(4, 28, 28, 1024, down=2),
    Case(1, 50, 50, 256, up=2, dtype="bfloat16"),
    Case(1, 100, 100, 256, down=2, dtype="bfloat16"),
    Case(1, 50, 50, 256, up=4, dtype="bfloat16"),
    Case(16, 32, 32, 64, up=2, dtype="bfloat16"),
    Case(64, 14, 14, 256, up=2, dtype="bfloat16"),
)


def headings(first: Beside, keep_memory: bool) -> list[str]:
    """Of the first table, for what the first case has found."""
    kept = ["memory kept, ms", "page faults", "memory kept, page faults"] if keep_memory else []
    others = [name for name in first.times[FORWARD] if name not in (OURS, PATCHES)]
    return ["", "pass", "ours, ms", *kept, "temp / (x+w+y)",
            f"{PATCHES}, ms (times ours)", "temp / (x+w+y)",
            *(f"{name}, ms (times ours)" for name in others)]  # fmt: skip


def formulation_rows(case: Case, found: Beside, kept: Own | None) -> Iterator[list[str]]:
    """Of the first table; ``kept`` has our times with memory kept."""
    for name, times in found.times.items():
        ours, patches, *others = times.values()
        temporary = {
            formulation: nbytes / array_bytes(case)
            for formulation, nbytes in found.temporary_bytes[name].items()
        }

        def beside_ours(milliseconds: float, ours: float = ours.milliseconds) -> str:
            return f"{digits(milliseconds)} ({digits(milliseconds / ours)})"

        cells = [label(case) if name == FORWARD else "", name, f"{ours.milliseconds:.2f}"]
        if kept is not None:
            cells += [f"{kept.passes[name].milliseconds:.2f}", f"{ours.page_faults:.0f}",
                      f"{kept.passes[name].page_faults:.0f}"]  # fmt: skip
        cells += [f"{temporary[OURS]:.2f}", beside_ours(patches.milliseconds),
                  f"{temporary[PATCHES]:.1f}"]  # fmt: skip
        yield [*cells, *(beside_ours(other.milliseconds) for other in others)]


LIMIT_HEADINGS = ["", "contraction", "ms", "GFLOP/s", "of the product, %", "GB/s",
                  "of the copy, %", "product, GFLOP/s", "copy, GB/s"]  # fmt: skip


def limit_rows(case: Case, found: Own) -> Iterator[list[str]]:
    """Of the second table; a multiply-add counts as two operations, outside of the map too."""
    limits, flops = found.limits, 2 * case.taps * math.prod(case.y_shape)
    for name, calls in found.contractions.items():
        first = name == FORWARD
        seconds = 1e-3 * calls.milliseconds
        rate, bandwidth = flops / seconds, array_bytes(case) / seconds
        yield [
            label(case) if first else "",
            name,
            f"{calls.milliseconds:.2f}",
            f"{rate / 1e9:.1f}",
            f"{100 * rate / limits.flops_per_second:.0f}",
            f"{bandwidth / 1e9:.1f}",
            f"{100 * bandwidth / limits.bytes_per_second:.0f}",
            f"{limits.flops_per_second / 1e9:.0f}" if first else "",
            f"{limits.bytes_per_second / 1e9:.1f}" if first else "",
        ]


def run(cases: str = "", rounds: int = 5) -> None:
    """Prints the tables.

    Args:
        cases: only cases that have this in their label, such as "up 2" or "bfloat16".
        rounds: turns of five calls that each function gets, or of one if it is slow; the median
            counts.
    """
    check_rounds(rounds)
    print_tables(matching(CASES, cases), rounds)


def print_tables(cases: Sequence[Case], rounds: int) -> None:
    """Measures cases and prints a case as soon as it is measured."""
    limiting: list[list[str]] = []
    for case in cases:
        found = processes.call(beside, False, case, rounds)
        keep_memory = processes.can_keep_memory(found.platform)
        ours = processes.call(own, keep_memory, case, rounds)
        if not limiting:
            print(f"{found.machine}, {pytorch.version(found.torch)}")
            print(f"{processes.allocator(keep_memory)}\n")
            print(head(headings(found, keep_memory), 2))
        for cells in formulation_rows(case, found, ours if keep_memory else None):
            print(row(cells), flush=True)
        limiting += limit_rows(case, ours)
    print(f"\n{head(LIMIT_HEADINGS, 2)}")
    for cells in limiting:
        print(row(cells))


if __name__ == "__main__":
    run_program(run)
