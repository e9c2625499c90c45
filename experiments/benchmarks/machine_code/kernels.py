"""Tables of the machine code of single kernels."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import jax
from carafe_kernels import mosaic_gpu

from experiments.benchmarks.cases import Case
from experiments.benchmarks.kernel_calls import KernelCall, both_gradients, kernel_calls
from experiments.benchmarks.machine_code import cases
from experiments.benchmarks.machine_code.h100 import Shape

# Patterns of instructions in the machine code.
_CONVERSIONS = "SHF|PRMT|LOP3|F2FP"
_INSTRUCTIONS = {"FFMA": "FFMA", "loads": "LDS", "conversions": _CONVERSIONS}
_VARIANT_INSTRUCTIONS = {
    "FFMA": "FFMA",
    "HMMA": "HMMA",
    "loads": "LDS|LDSM",
    "stores": "STS|STSM",
    "selects": "SEL|FSEL|PRMT",
    "barriers": "BAR",
}
# Settings of all contractions on the CUDA cores, and on the tensor cores.
_CUDA_CORES = dict.fromkeys(("forward", "input_gradient", "weight_gradient"), "multiply_add")
_TENSOR_CORES = {"forward": "bands", "input_gradient": "bands", "weight_gradient": "products"}


@contextlib.contextmanager
def _dumps_in(folder: str) -> Iterator[None]:
    variables = {"DUMP_TO": folder, "DUMP_PTXAS": "1", "DUMP_SASS": "1"}
    variables = {f"MOSAIC_GPU_{name}": value for name, value in variables.items()}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def compiled(
    call: KernelCall, case: Case, shape: Shape, instructions: Mapping[str, str]
) -> dict[str, int]:
    """Compiles one kernel and returns its resources and instruction counts.

    Args:
        call: function that launches the kernel.
        case: operands of the kernel.
        shape: makes the ``ShapeDtypeStruct`` of an operand.
        instructions: patterns of instructions to count in the machine code, by name.
    """
    operands = cases.shapes(case, shape)
    with tempfile.TemporaryDirectory() as folder:
        with _dumps_in(folder):
            arguments = (operands[name] for name in call.operands)
            jax.jit(call.function).lower(*arguments).compile()
        (ptxas,) = Path(folder).glob("*.ptxas")
        (resources,) = Path(folder).glob("*.resources.txt")
        (sass,) = Path(folder).glob("*.sass_ctrl")
        text = ptxas.read_text()
        code = sass.read_text()
        return {
            "registers": sum(map(int, re.findall(r"Used (\d+) registers", text))),
            "spilled, B": sum(map(int, re.findall(r"(\d+) bytes spill", text))),
            "shared memory, B": sum(
                map(int, re.findall(r"smem_scratch_bytes=(\d+)", resources.read_text()))
            ),
            "instructions": len(re.findall(r"/\*[0-9a-f]{4,}\*/", code)),
            **{
                name: len(re.findall(rf"\b(?:{pattern})\b", code))
                for name, pattern in instructions.items()
            },
        }


type _Row = tuple[str, str, dict[str, int]]


def print_table(title: str, rows: Iterable[_Row]) -> bool:
    """Prints a table; returns whether any kernel spills registers.

    Args:
        title: heading of the first column.
        rows: label, kernel and numbers of each row.
    """
    spilled, before = False, None
    for label, name, row in rows:
        if before is None:
            print(f"\n| {title} | |", " | ".join(row), "|")
            print("|---|---" + "|---:" * len(row) + "|")
        first = "" if label == before else label
        before = label
        print(f"| {first} | {name} |", " | ".join(map(str, row.values())), "|", flush=True)
        spilled |= row["spilled, B"] > 0
    return spilled


def all_kernels(shape: Shape) -> Iterator[_Row]:
    """The three kernels of every case."""
    for case in cases.CASES:
        with mosaic_gpu.using(**_CUDA_CORES):
            calls = kernel_calls(case)
        for name, call in calls.items():
            yield cases.label(case), name, compiled(call, case, shape, _INSTRUCTIONS)


def both_cores(shape: Shape) -> Iterator[_Row]:
    """Each contraction on the CUDA cores and on the tensor cores."""
    for case in cases.VARIANTS:
        for cores, settings in (("CUDA", _CUDA_CORES), ("tensor", _TENSOR_CORES)):
            with mosaic_gpu.using(**settings):
                calls = kernel_calls(case)
            for name, call in calls.items():
                row = compiled(call, case, shape, _VARIANT_INSTRUCTIONS)
                yield cases.label(case), f"{name}, {cores} cores", row


def joint_gradients(shape: Shape) -> Iterator[_Row]:
    """Kernels of both gradients; :func:`all_kernels` has a kernel for each gradient."""
    for case in cases.GRADIENTS:
        with mosaic_gpu.using(**_CUDA_CORES):
            call = both_gradients(case)
        row = compiled(call, case, shape, _VARIANT_INSTRUCTIONS)
        yield cases.label(case), "`together`", row
    for case in cases.VARIANTS:
        with mosaic_gpu.using(**_TENSOR_CORES):
            call = both_gradients(case)
        row = compiled(call, case, shape, _VARIANT_INSTRUCTIONS)
        yield cases.label(case), "`together`, tensor cores", row
