"""The operator beside what else computes the same: `python -m experiments.benchmarks.operator`.

Prints two tables in Markdown, in which a case is a row for each pass. The first has our operator,
patches and einsum in XLA, and, where PyTorch is installed, unfold and einsum in PyTorch and a loop
over taps, channels first and last, and compiled by ``torch.compile``, which on a CPU takes a C++
compiler. The second has our three contractions as shares of what the same machine copies, and
multiplies in float32. Runs unchanged on any JAX backend.

Gradients are those for a cotangent that is given, and those of two losses. If a compiler fuses the
elementwise gradient of a loss by the output into the contractions, and the forward pass with it, it
computes both many times: then the rows of the losses are slower by far.

On a CPU with glibc our operator is measured twice: with the defaults of the allocator, as all else,
and where it keeps memory. See :mod:`experiments.benchmarks.processes`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from experiments.benchmarks import machine, processes, pytorch, torch_operator
from experiments.benchmarks.calls import Operator, arrays, contractions, operator, passes
from experiments.benchmarks.cases import Case, matching
from experiments.benchmarks.machine import Limits, Machine
from experiments.benchmarks.markdown import decimals, digits, print_table
from experiments.benchmarks.passes import FORWARD
from experiments.benchmarks.timing import Program, Timing, check_rounds, in_turns
from experiments.benchmarks.torch_operator import Form
from experiments.engine.command_line import run_program

OURS, PATCHES = "ours", "XLA patches"

# Weights have the dtype of the map: PyTorch and einsum multiply arrays of one dtype.
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
    Case(1, 50, 50, 256, up=2, dtype="bfloat16", weights_dtype="bfloat16"),
    Case(1, 100, 100, 256, down=2, dtype="bfloat16", weights_dtype="bfloat16"),
    Case(1, 50, 50, 256, up=4, dtype="bfloat16", weights_dtype="bfloat16"),
    Case(16, 32, 32, 64, up=2, dtype="bfloat16", weights_dtype="bfloat16"),
    Case(64, 14, 14, 256, up=2, dtype="bfloat16", weights_dtype="bfloat16"),
)


@dataclasses.dataclass(frozen=True)
class Rivals:
    """What is compared on a machine.

    Attributes:
        machine: with the version of PyTorch.
        forms: of PyTorch that can be timed there.
    """

    machine: Machine
    forms: tuple[Form, ...]


@dataclasses.dataclass(frozen=True)
class Own:
    """Our operator beside what the machine can do.

    Attributes:
        passes: by name.
        contractions: by name, each alone.
        limits: of the machine.
    """

    passes: dict[str, Timing]
    contractions: dict[str, Timing]
    limits: Limits


def through_patches(x: jax.Array, weights: jax.Array, case: Case) -> jax.Array:
    """The usual formulation: gather all patches by a convolution, then contract with einsum."""
    k, up, down = case.kernel_size, case.up, case.down
    pad = (k // 2, k // 2)
    patches = lax.conv_general_dilated_patches(
        x, (k, k), (down, down), (pad, pad), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    batch, rows, columns, _ = patches.shape
    patches = patches.reshape(batch, rows, columns, -1, k * k)
    weights = weights.reshape(batch, rows, up, columns, up, k * k)
    y = jnp.einsum("bqurvk,bqrck->bqurvc", weights, patches)
    return y.reshape(batch, rows * up, columns * up, -1)


def formulations(case: Case) -> dict[str, Operator]:
    """The operator of a case in JAX, ours and the usual one."""
    return {OURS: operator(case, None), PATCHES: functools.partial(through_patches, case=case)}


def rivals() -> Rivals:
    """Finds out what can be timed here."""
    here = machine.this_machine()
    torch = pytorch.load(here.platform)
    text, forms = pytorch.version(torch), [*Form]
    if torch is None:
        forms = []
    elif not pytorch.can_compile(torch, here.platform):
        forms.remove(Form.COMPILED)
        text += ", no C++ compiler: compiled PyTorch is left out"
    return Rivals(Machine(here.platform, f"{here.description}, {text}"), tuple(forms))


def beside(case: Case, forms: Sequence[Form], rounds: int) -> dict[str, dict[str, Timing]]:
    """Times formulations by pass and name, those of a pass in turns."""
    operands, platform = arrays(case), jax.default_backend()
    functions: dict[str, dict[str, Callable[[], object]]] = {}
    for name, function in formulations(case).items():
        for each, run in passes(function).items():
            functions.setdefault(each, {})[name] = Program(run, operands)
    torch = pytorch.load(platform) if forms else None
    for form in forms:
        tensors = [form.arranged(pytorch.tensor(torch, each, platform)) for each in operands]
        for each, run in torch_operator.passes(torch, form, case).items():
            call = functools.partial(run, *tensors)
            functions[each][form] = pytorch.waiting(torch, call, platform)
    return {each: in_turns(by_name, rounds) for each, by_name in functions.items()}


def own(case: Case, rounds: int) -> Own:
    """Times our passes, our contractions and the machine's limits in turns."""
    function, operands = operator(case, None), arrays(case)

    def compiled(functions: dict[str, Callable[..., Any]]) -> dict[str, Program]:
        return {name: Program(run, operands) for name, run in functions.items()}

    of_passes, of_contractions = compiled(passes(function)), compiled(contractions(function))
    of_limits = machine.limit_programs()
    times = in_turns({**of_passes, **of_contractions, **of_limits}, rounds)
    return Own(
        {name: times[name] for name in of_passes},
        {name: times[name] for name in of_contractions},
        machine.limits(times),
    )


def headings(forms: Sequence[Form], keep_memory: bool) -> list[str]:
    """Of the first table."""
    kept = ["memory kept, ms", "page faults", "memory kept, page faults"] if keep_memory else []
    return ["", "pass", f"{OURS}, ms", *kept, f"{OURS}, temp / (x+w+y)",
            f"{PATCHES}, ms (times ours)", f"{PATCHES}, temp / (x+w+y)",
            *(f"{form}, ms (times ours)" for form in forms)]  # fmt: skip


def formulation_rows(
    case: Case, found: dict[str, dict[str, Timing]], kept: Own | None
) -> Iterator[list[str]]:
    """Of the first table; ``kept`` has our times with memory kept."""
    for name, times in found.items():
        ours, patches, *others = times.values()

        def beside_ours(timing: Timing, ours: Timing = ours) -> str:
            ratio = timing.milliseconds / ours.milliseconds
            return f"{digits(timing.milliseconds)} ({digits(ratio)})"

        def temporary(timing: Timing, count: int) -> str:
            nbytes = timing.temporary_bytes
            return decimals(None if nbytes is None else nbytes / case.moved.forward, count)

        cells = [case.label if name == FORWARD else "", name, f"{ours.milliseconds:.2f}"]
        if kept is not None:
            cells += [f"{kept.passes[name].milliseconds:.2f}", f"{ours.page_faults:.0f}",
                      f"{kept.passes[name].page_faults:.0f}"]  # fmt: skip
        cells += [temporary(ours, 2), beside_ours(patches), temporary(patches, 1)]
        yield [*cells, *map(beside_ours, others)]


LIMIT_HEADINGS = ["", "contraction", "ms", "GFLOP/s", "of the float32 product, %", "GB/s",
                  "of the copy, %", "float32 product, GFLOP/s", "copy, GB/s"]  # fmt: skip


def limit_rows(case: Case, found: Own) -> Iterator[list[str]]:
    """Of the second table; a multiply-add counts as two operations, outside of the map too."""
    limits, flops = found.limits, 2 * case.taps * math.prod(case.y_shape)
    for name, timing in found.contractions.items():
        first = name == FORWARD
        seconds = 1e-3 * timing.milliseconds
        rate, bandwidth = flops / seconds, case.moved.forward / seconds
        yield [
            case.label if first else "",
            name,
            f"{timing.milliseconds:.2f}",
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
    here = processes.call(rivals, "defaults")
    allocator = processes.or_defaults("memory kept", here.machine.platform)
    keep_memory = allocator != "defaults"
    limiting: list[list[str]] = []

    def rows() -> Iterator[list[str]]:
        for case in cases:
            found = processes.call(beside, "defaults", case, here.forms, rounds)
            ours = processes.call(own, allocator, case, rounds)
            limiting.extend(limit_rows(case, ours))
            yield from formulation_rows(case, found, ours if keep_memory else None)

    print(processes.above(here.machine, allocator))
    print_table(headings(here.forms, keep_memory), 2, rows())
    print()
    print_table(LIMIT_HEADINGS, 2, limiting)


if __name__ == "__main__":
    run_program(run)
