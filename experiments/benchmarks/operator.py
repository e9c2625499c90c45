"""Compares the operator with other formulations: `python -m experiments.benchmarks.operator`.

Prints two tables in Markdown, with a row for each pass of a case. The first table compares our
operator with patches and einsum in XLA and, if PyTorch is installed, with unfold and einsum in
PyTorch and with a loop over taps: channels first, channels last, and compiled by ``torch.compile``,
which needs a C++ compiler on a CPU. The second table compares the rates of our three contractions
with the rates at which the same machine copies arrays and multiplies float32 matrices. Runs on any
JAX backend.

Gradients are measured for a given cotangent and for two losses. If a compiler fuses the elementwise
gradient of a loss and the forward pass into the contractions, it computes both many times, and the
rows of the losses are much slower.

On a CPU with glibc, our operator is measured twice: with the defaults of the allocator, like
everything else, and with memory kept. See :mod:`experiments.benchmarks.processes`.
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

# Weights have the dtype of the map, because PyTorch and einsum multiply arrays of one dtype.
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
class Setup:
    """The machine, and the formulations in PyTorch that can be timed on it.

    Attributes:
        machine: description of the machine, with the version of PyTorch.
        forms: formulations in PyTorch that can be timed.
    """

    machine: Machine
    forms: tuple[Form, ...]


@dataclasses.dataclass(frozen=True)
class OwnTimes:
    """Times of our operator, and the limits of the machine.

    Attributes:
        passes: time of each pass, by name.
        contractions: time of each single contraction, by name.
        limits: the limits of the machine, measured in the same turns.
    """

    passes: dict[str, Timing]
    contractions: dict[str, Timing]
    limits: Limits


def through_patches(x: jax.Array, weights: jax.Array, case: Case) -> jax.Array:
    """The common formulation: gathers all patches by a convolution, then contracts with einsum."""
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
    """The operator of a case in JAX: ours, and the common formulation."""
    return {OURS: operator(case, None), PATCHES: functools.partial(through_patches, case=case)}


def setup() -> Setup:
    """Finds out which formulations can be timed on this machine."""
    here = machine.this_machine()
    torch = pytorch.load(here.platform)
    text, forms = pytorch.version(torch), [*Form]
    if torch is None:
        forms = []
    elif not pytorch.can_compile(torch, here.platform):
        forms.remove(Form.COMPILED)
        text += ", no C++ compiler: compiled PyTorch is left out"
    return Setup(Machine(here.platform, f"{here.description}, {text}"), tuple(forms))


def time_formulations(
    case: Case, forms: Sequence[Form], rounds: int
) -> dict[str, dict[str, Timing]]:
    """Times all formulations, by pass and name. The formulations of a pass take turns."""
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


def time_own(case: Case, rounds: int) -> OwnTimes:
    """Times our passes, our contractions and the machine's limits in turns."""
    function, operands = operator(case, None), arrays(case)

    def compiled(functions: dict[str, Callable[..., Any]]) -> dict[str, Program]:
        return {name: Program(run, operands) for name, run in functions.items()}

    pass_programs, contraction_programs = (
        compiled(passes(function)),
        compiled(contractions(function)),
    )
    programs = {**pass_programs, **contraction_programs, **machine.limit_programs()}
    times = in_turns(programs, rounds)
    return OwnTimes(
        {name: times[name] for name in pass_programs},
        {name: times[name] for name in contraction_programs},
        machine.limits(times),
    )


def headings(forms: Sequence[Form], keep_memory: bool) -> list[str]:
    """The column headings of the first table."""
    kept = ["memory kept, ms", "page faults", "memory kept, page faults"] if keep_memory else []
    return ["", "pass", f"{OURS}, ms", *kept, f"{OURS}, temp / (x+w+y)",
            f"{PATCHES}, ms (times ours)", f"{PATCHES}, temp / (x+w+y)",
            *(f"{form}, ms (times ours)" for form in forms)]  # fmt: skip


def formulation_rows(
    case: Case, found: dict[str, dict[str, Timing]], kept: OwnTimes | None
) -> Iterator[list[str]]:
    """The rows of a case in the first table; ``kept`` has our times with memory kept."""
    for name, times in found.items():
        ours, patches, *others = times.values()

        def with_ratio(timing: Timing, ours: Timing = ours) -> str:
            ratio = timing.milliseconds / ours.milliseconds
            return f"{digits(timing.milliseconds)} ({digits(ratio)})"

        def temporary(timing: Timing, count: int) -> str:
            nbytes = timing.temporary_bytes
            return decimals(None if nbytes is None else nbytes / case.moved.forward, count)

        entries = [case.label if name == FORWARD else "", name, f"{ours.milliseconds:.2f}"]
        if kept is not None:
            entries += [f"{kept.passes[name].milliseconds:.2f}", f"{ours.page_faults:.0f}",
                      f"{kept.passes[name].page_faults:.0f}"]  # fmt: skip
        entries += [temporary(ours, 2), with_ratio(patches), temporary(patches, 1)]
        yield [*entries, *map(with_ratio, others)]


LIMIT_HEADINGS = ["", "contraction", "ms", "GFLOP/s", "share of the float32 product, %", "GB/s",
                  "share of the copy, %", "float32 product, GFLOP/s", "copy, GB/s"]  # fmt: skip


def limit_rows(case: Case, found: OwnTimes) -> Iterator[list[str]]:
    """The rows of a case in the second table.

    A multiply-add counts as two operations, also for taps outside the map.
    """
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
        cases: part of the labels of the cases to measure, such as "up 2" or "bfloat16".
        rounds: number of turns of each function, of five calls, or one if it is slow; the table
            has the medians.
    """
    check_rounds(rounds)
    print_tables(matching(CASES, cases), rounds)


def print_tables(cases: Sequence[Case], rounds: int) -> None:
    """Measures cases and prints each row as soon as it is available."""
    here = processes.call(setup, "defaults")
    allocator = processes.or_defaults("memory kept", here.machine.platform)
    keep_memory = allocator != "defaults"
    limit_table: list[list[str]] = []

    def rows() -> Iterator[list[str]]:
        for case in cases:
            found = processes.call(time_formulations, "defaults", case, here.forms, rounds)
            ours = processes.call(time_own, allocator, case, rounds)
            limit_table.extend(limit_rows(case, ours))
            yield from formulation_rows(case, found, ours if keep_memory else None)

    print(processes.header(here.machine, allocator))
    print_table(headings(here.forms, keep_memory), 2, rows())
    print()
    print_table(LIMIT_HEADINGS, 2, limit_table)


if __name__ == "__main__":
    run_program(run)
