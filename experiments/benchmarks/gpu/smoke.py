"""Single kernels at small shapes, in memory that was full of something else."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from carafe_kernels import mosaic_gpu

from experiments.benchmarks.calls import operator
from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu.child import Tell, one_line
from experiments.benchmarks.gpu.fast import backward
from experiments.benchmarks.gpu.poisoned import Calls, Program, check
from experiments.benchmarks.gpu.timing import compile_in_threads
from experiments.benchmarks.kernel_calls import kernel_calls

GRADIENTS = "gradients"  # both, of one backward pass


def calls_of(case: Case, kernel: str | None) -> dict[str, Calls]:
    """What to call: a kernel by its name, all three by ``None``, or a whole backward pass."""
    if kernel == GRADIENTS:
        last = "dw" if case.normalizer is None else "dlogits"
        function = backward(operator(case, "mosaic_gpu"))
        return {kernel: Calls(function, ("x", "kernels", "dy"), ("dx", last))}
    return {
        name: Calls(call.function, call.operands, (name,))
        for name, call in kernel_calls(case).items()
        if kernel in (None, name)
    }


def smoke(
    tell: Tell,
    cases: Sequence[Mapping[str, Any]],
    kernel: str | None,
    seeds: Sequence[int],
    settings: Mapping[str, Any],
) -> str:
    """Compares kernels with float64 for every seed and pattern.

    Args:
        tell: sends messages.
        cases: shapes.
        kernel: see :func:`calls_of`.
        seeds: of the operands.
        settings: of ``mosaic_gpu.Settings``. Cases that do not serve them are passed over, if not
            all are.
    """
    with mosaic_gpu.using(**settings):
        return _smoke(tell, [*map(Case.from_json, cases)], kernel, seeds)


def _smoke(tell: Tell, cases: Sequence[Case], kernel: str | None, seeds: Sequence[int]) -> str:
    tell.stage("compiling")
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
            tell.measured(case=key[0].to_json(), refused=one_line(program))
            continue
        for seed in seeds:
            largest = max(largest, check(tell, key[0], calls[key], program, seed))
    refused = f", {len(refusals)} of {len(programs)} refused" if refusals else ""
    return f"seeds {' '.join(map(str, seeds))}, largest error {largest:.1e}{refused}"


def traced(case: Case, call: Calls) -> jax.stages.Traced:
    """The program of a call, not lowered yet."""
    arguments = [jax.ShapeDtypeStruct(*case.operands[name]) for name in call.operands]
    return jax.jit(call.function).trace(*arguments)


def _compiled(case: Case, call: Calls) -> Program | NotImplementedError:
    try:
        return traced(case, call).lower().compile()
    except NotImplementedError as error:
        return error
