"""Checks single kernels at small shapes, in memory filled with other values."""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from carafe_kernels import mosaic_gpu

from experiments.benchmarks.calls import operator
from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu.child import Reporter, one_line
from experiments.benchmarks.gpu.fast import backward
from experiments.benchmarks.gpu.poisoned import Calls, Program, check
from experiments.benchmarks.gpu.timing import compile_in_threads
from experiments.benchmarks.kernel_calls import kernel_calls

GRADIENTS = "gradients"  # both gradients of a backward pass


def calls_of(case: Case, kernel: str | None) -> dict[str, Calls]:
    """The calls to check.

    Args:
        case: shapes and options.
        kernel: name of a kernel, ``"gradients"`` for a backward pass, or ``None`` for all kernels.
    """
    if kernel == GRADIENTS:
        last = "dw" if case.normalizer is None else "dlogits"
        function = backward(operator(case, "mosaic_gpu"))
        return {kernel: Calls(function, ("x", "kernels", "dy"), ("dx", last))}
    return {
        name: Calls(call.function, call.operands, (name,))
        for name, call in kernel_calls(case).items()
        if kernel in (None, name)
    }


def single_kernels(settings: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
    """Uses settings, by default the kernels that do not depend on a table of variants."""
    single = dict.fromkeys(("forward", "input_gradient", "weight_gradient"), "multiply_add")
    return mosaic_gpu.using(**{**single, "gradients": "apart", **settings})


def smoke(
    reporter: Reporter,
    cases: Sequence[Mapping[str, Any]],
    kernel: str | None,
    seeds: Sequence[int],
    settings: Mapping[str, Any],
) -> str:
    """Compares kernels with float64 for every seed and pattern.

    Args:
        reporter: reporter that sends messages to the parent process.
        cases: cases in JSON.
        kernel: name of a kernel, or another value that :func:`calls_of` accepts.
        seeds: seeds of the operands.
        settings: fields of ``mosaic_gpu.Settings`` to change. Cases that do not support them are
            skipped, unless no case does.
    """
    with single_kernels(settings):
        return _smoke(reporter, [*map(Case.from_json, cases)], kernel, seeds)


def _smoke(
    reporter: Reporter, cases: Sequence[Case], kernel: str | None, seeds: Sequence[int]
) -> str:
    reporter.stage("compiling")
    calls = {(case, name): call for case in cases for name, call in calls_of(case, kernel).items()}
    programs = compile_in_threads({
        key: functools.partial(_compiled, key[0], call) for key, call in calls.items()
    })  # fmt: skip
    refusals = [program for program in programs.values() if isinstance(program, Exception)]
    if len(refusals) == len(programs):
        raise refusals[0]
    largest = 0.0
    for key, program in programs.items():
        if isinstance(program, Exception):
            reporter.measured(case=key[0].to_json(), refused=one_line(program))
            continue
        for seed in seeds:
            largest = max(largest, check(reporter, key[0], calls[key], program, seed))
    refused = f", {len(refusals)} of {len(programs)} refused" if refusals else ""
    return f"seeds {' '.join(map(str, seeds))}, largest error {largest:.1e}{refused}"


def traced(case: Case, call: Calls) -> jax.stages.Traced:
    """The traced program of a call, before lowering."""
    arguments = [jax.ShapeDtypeStruct(*case.operands[name]) for name in call.operands]
    return jax.jit(call.function).trace(*arguments)


def _compiled(case: Case, call: Calls) -> Program | NotImplementedError:
    try:
        return traced(case, call).lower().compile()
    except NotImplementedError as error:
        return error
