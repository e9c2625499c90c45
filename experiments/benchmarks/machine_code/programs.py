"""Table of the compiled programs of whole operators."""

import itertools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from experiments.benchmarks.calls import operator, with_gradients
from experiments.benchmarks.cases import Case
from experiments.benchmarks.machine_code import cases
from experiments.benchmarks.machine_code.h100 import Shape


class Program(NamedTuple):
    """Kernels and temporary memory of a program.

    Attributes:
        ours: number of kernels of this project.
        others: number of kernels of XLA. Around ours they pad, crop, convert or rearrange arrays.
        temporaries: bytes besides arguments and results, relative to the bytes of the operands.
    """

    ours: int
    others: int
    temporaries: float


def compiled(case: Case, implementation: str, shape: Shape, *, gradients: bool) -> Program:
    """Compiles the forward pass of an operator, alone or with its gradients."""
    run: Callable[..., Any] = operator(case, implementation)
    operands = list(cases.shapes(case, shape).values())
    run, arguments = (with_gradients(run), operands) if gradients else (run, operands[:2])
    program = jax.jit(run).lower(*arguments).compile()
    analysis, text = program.memory_analysis(), program.as_text()
    assert analysis is not None, "the CUDA compiler analyses memory"
    assert text is not None, "the CUDA compiler shows its program"
    entry = text[text.index("ENTRY") :]
    own = sum(math.prod(a.shape) * a.dtype.itemsize for a in operands)
    return Program(
        ours=len(re.findall(r"custom-call\(.*mosaic_gpu", entry)),
        others=len(re.findall(r" (?:fusion|copy|transpose|pad|slice|convert|reduce)\(", entry)),
        temporaries=analysis.temp_size_in_bytes / own,
    )


def print_programs(shape: Shape) -> None:
    """Prints the table, with a row for each operator and case."""
    heads = (
        "kernels", "XLA kernels around them", "temporaries / (x+w+y)",
        "XLA alone: kernels", "XLA alone: temporaries / (x+w+y)",
        "XLA alone: kernels, forward only",
    )  # fmt: skip
    print("\n| operator and gradients |", " | ".join(heads), "|")
    print("|---" + "|---:" * len(heads) + "|")
    for case, normalizer in itertools.product(cases.PROGRAMS, ("softmax", None)):
        one = case.replace(normalizer=normalizer)
        ours = compiled(one, "mosaic_gpu", shape, gradients=True)
        xla = compiled(one, "xla", shape, gradients=True)
        forward = compiled(one, "xla", shape, gradients=False)
        print(
            f"| `{one.operator}` {one}, {case.dtype} | {ours.ours} | {ours.others} "
            f"| {ours.temporaries:.2f} | {xla.others} | {xla.temporaries:.2f} "
            f"| {forward.others} |",
            flush=True,
        )
