"""Whole networks with and without CARAFE++: `python -m experiments.benchmarks.networks`.

Prints a table in Markdown of ResNet in inference and training and of Faster R-CNN in inference,
ours and torchvision's where that is installed. All have random weights: their shapes are the same,
and their numbers are not. What a detector of torchvision computes depends on how many regions its
weights propose; ours computes the same whatever it finds. Runs unchanged on any JAX backend.

On a CPU with glibc all are measured twice: with the defaults of the allocator, and where it keeps
memory. See :mod:`experiments.benchmarks.processes`.
"""

from collections.abc import Iterator

from experiments.benchmarks import processes, pytorch
from experiments.benchmarks.markdown import digits, head, row
from experiments.benchmarks.network_times import OURS, PASSES, Networks, Sizes
from experiments.benchmarks.timing import check_rounds
from experiments.engine.command_line import run_program

_SIZES = Sizes()


def run(rounds: int = 5, sizes: Sizes = _SIZES) -> None:
    """Prints the table.

    Args:
        rounds: turns of five calls that each network gets, or of one if it is slow; the median
            counts.
        sizes: of what is timed.
    """
    check_rounds(rounds)
    for number, (name, measure) in enumerate(PASSES.items()):
        found = processes.call(measure, False, sizes, rounds)
        keeps = processes.can_keep_memory(found.platform)
        kept = processes.call(measure, True, sizes, rounds) if keeps else None
        if not number:
            print(f"{found.machine}, {pytorch.version(found.torch)}")
            print(f"{processes.allocator(keeps)}\n")
            print(head(headings(keeps), 2))
        for cells in rows(name, found, kept):
            print(row(cells), flush=True)


def headings(keeps_memory: bool) -> list[str]:
    """For networks with memory as it is, and kept where that is measured."""
    kept = ["memory kept, ms", "times ours"] if keeps_memory else []
    first = ["", "network", "ms", "times ours", "page faults"]
    return [*first, *kept, "compile, s", "temporary MB"]


def rows(name: str, found: Networks, kept: Networks | None) -> Iterator[list[str]]:
    """Of a pass; ``kept`` has the times with memory kept."""
    for network, each in found.networks.items():
        cells = [name if network == OURS else "", network]
        for networks in (found, kept):
            if networks is not None:
                calls = networks.networks[network].calls
                ratio = calls.milliseconds / networks.networks[OURS].calls.milliseconds
                cells += [digits(calls.milliseconds), f"{ratio:.2f}"]
            if networks is found:
                cells.append(f"{each.calls.page_faults:.0f}")
        compiled, temporary = each.compile_seconds, each.temporary_bytes
        cells.append("-" if compiled is None else f"{compiled:.1f}")
        cells.append("-" if temporary is None else f"{temporary / 1e6:.0f}")
        yield cells


if __name__ == "__main__":
    run_program(run)
