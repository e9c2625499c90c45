"""Single kernels at small shapes, in memory that was full of something else."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from carafe_kernels import mosaic_gpu

from experiments.benchmarks.calls import kernel_calls, operator
from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu import location, reference
from experiments.benchmarks.gpu.checks import (
    TOLERANCES,
    random_operands,
    relative_error,
)
from experiments.benchmarks.gpu.child import Tell, one_line
from experiments.benchmarks.gpu.fast import backward
from experiments.benchmarks.gpu.timing import compile_in_threads

# Freed memory is full of the first, then of the second: an element that a kernel does not write,
# or reads before it is written, cannot be right under both.
PATTERNS = {"NaN": float("nan"), "-1000": -1000.0}
_COPIES = 3

GRADIENTS = "gradients"  # both, of one backward pass

Program = Callable[..., Any]


class Calls(NamedTuple):
    """A function that gives one array, or several, and which operands it takes."""

    function: Callable[..., Any]
    operands: Sequence[str]
    results: Sequence[str]


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
    tell.stage("compiling")
    calls = {}
    with mosaic_gpu.using(**settings):
        for case in map(Case.from_json, cases):
            for name, call in calls_of(case, kernel).items():
                calls[case, name] = call
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
            largest = max(largest, _check(tell, key[0], calls[key], program, seed))
    refused = f", {len(refusals)} of {len(programs)} refused" if refusals else ""
    return f"seeds {' '.join(map(str, seeds))}, largest error {largest:.1e}{refused}"


def _compiled(case: Case, call: Calls) -> Program | NotImplementedError:
    shapes = {"x": case.x_shape, "kernels": case.kernels_shape, "dy": case.y_shape}
    dtypes = {"x": case.dtype, "kernels": case.kernels_dtype, "dy": case.dtype}
    arguments = [jax.ShapeDtypeStruct(shapes[name], dtypes[name]) for name in call.operands]
    try:
        return jax.jit(call.function).lower(*arguments).compile()
    except NotImplementedError as error:
        return error


def expected(case: Case, name: str, operands: Mapping[str, npt.NDArray[Any]]) -> reference.Float64:
    """What a kernel should give."""
    x, kernels, dy = operands["x"], operands["kernels"], operands["dy"]
    weights = kernels if case.normalizer is None else reference.softmax_weights(case, kernels)
    match name:
        case "forward":
            return reference.forward(case, x, weights)
        case "dx":
            return reference.input_gradient(case, weights, dy)
        case "dw":
            return reference.weight_gradient(case, x, dy)
    dw = reference.weight_gradient(case, x, dy)
    return reference.softmax_gradient(case, np.asarray(weights, np.float64), dw)


def poison(shapes: Sequence[tuple[tuple[int, ...], Any]], value: float) -> None:
    """Fills memory of these shapes and dtypes with a value, and frees it for what comes next."""
    arrays = [jnp.full(shape, value, dtype) for shape, dtype in shapes for _ in range(_COPIES)]
    jax.block_until_ready(arrays)
    for array in arrays:
        array.delete()


def _check(tell: Tell, case: Case, call: Calls, program: Program, seed: int) -> float:
    """Compares a program with float64 under every pattern; returns the largest error."""
    x, kernels, dy = random_operands(case, seed)
    operands = {"x": x, "kernels": kernels, "dy": dy}
    right = {name: expected(case, name, operands) for name in call.results}
    arrays = [jnp.asarray(operands[each]) for each in call.operands]
    memory: list[tuple[tuple[int, ...], Any]] = [(each.shape, each.dtype) for each in arrays]
    memory += [(right[name].shape, _dtype(case, name)) for name in call.results]
    bits, errors = [], dict[str, float]()
    for pattern, value in PATTERNS.items():
        what = f"{case} {case.dtype} {case.operator}, seed {seed}, memory full of {pattern}"
        tell.stage(f"running {what}")
        poison(memory, value)
        found = _results(call, program, arrays)
        bits.append([array.tobytes() for array in found.values()])
        for name, array in found.items():
            errors[f"{name}, {pattern}"] = error = relative_error(array, right[name])
            if not error < _tolerance(case, name):
                where = f"{name} of {what}"
                _say_where(tell, where, case, name, array, right[name], error)
                if name in ("dw", "dlogits"):
                    _say_which_step(tell, case, name, call, operands, program)
    same = all(each == bits[0] for each in bits)
    tell.measured(case=case.to_json(), seed=seed, errors=errors, same_bits=same)
    if not same:
        tell.wrong(f"{case} {case.dtype} {case.operator}, seed {seed}: another run, other bits")
    return float(np.max([*errors.values()]))


def _results(
    call: Calls, program: Program, arrays: Sequence[jax.Array]
) -> dict[str, npt.NDArray[Any]]:
    found = jax.tree.leaves(jax.device_get(program(*arrays)))
    return dict(zip(call.results, found, strict=True))


def _dtype(case: Case, name: str) -> str:
    return case.kernels_dtype if name in ("dw", "dlogits") else case.dtype


def _tolerance(case: Case, name: str) -> float:
    y_tolerance, gradient_tolerance = TOLERANCES[case.dtype]
    return y_tolerance if name == "forward" else gradient_tolerance


def _say_where(
    tell: Tell, where: str, case: Case, name: str, found: npt.NDArray[Any],
    right: reference.Float64, error: float,
) -> None:  # fmt: skip
    difference = np.abs(found.astype(np.float64) - right)
    wrong = ~(difference < _tolerance(case, name) * np.abs(right).max())
    cell = {"forward": case.up, "dw": case.up, "dx": case.down, "dlogits": 1}[name]
    radius = -(-(case.kernel_size // 2) // case.down)
    text, shares = location.describe(
        wrong, ~np.isfinite(difference), (cell, cell), radius, is_map=name in ("forward", "dx")
    )
    tell.measured(where=where, error=error, shares=shares)
    tell.wrong(f"{where}: error {error:.1e}, {text}")


def _say_which_step(
    tell: Tell, case: Case, name: str, call: Calls, operands: Mapping[str, npt.NDArray[Any]],
    program: Program,
) -> None:  # fmt: skip
    """Runs again with the channels of one step alone: sums over channels hide which are wrong."""
    wrong = []
    steps = range(0, case.channels, location.STEP_CHANNELS)
    for number, start in enumerate(steps):
        dy = np.zeros_like(operands["dy"])
        channels = slice(start, start + location.STEP_CHANNELS)
        dy[..., channels] = operands["dy"][..., channels]
        alone = {**operands, "dy": dy}
        found = _results(call, program, [jnp.asarray(alone[each]) for each in call.operands])
        error = relative_error(found[name], expected(case, name, alone))
        if not error < _tolerance(case, name):
            wrong.append(number)
    tell.wrong(f"{name} with the channels of one step alone: wrong in {wrong} of {len(steps)}")
