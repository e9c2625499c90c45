"""Compares a program with float64, in memory filled with other values."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu import location, reference
from experiments.benchmarks.gpu.channel_steps import channels_of_a_step
from experiments.benchmarks.gpu.checks import TOLERANCES, random_operands, relative_error
from experiments.benchmarks.gpu.child import Reporter
from experiments.benchmarks.gpu.memory import PATTERNS, Range, poison

Program = Callable[..., Any]


class Calls(NamedTuple):
    """A function, the names of its operands, and the names of its results."""

    function: Callable[..., Any]
    operands: Sequence[str]
    results: Sequence[str]


def expected(case: Case, name: str, operands: Mapping[str, npt.NDArray[Any]]) -> reference.Float64:
    """The expected result of a kernel, in float64."""
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


def check(reporter: Reporter, case: Case, call: Calls, program: Program, seed: int) -> float:
    """Compares a program with float64 for every fill pattern; returns the largest error.

    Reports for each result whether it was in memory that had been filled with the pattern: only
    there can an element that is never written be detected.
    """
    x, kernels, dy = random_operands(case, seed)
    operands = {"x": x, "kernels": kernels, "dy": dy}
    right = {name: expected(case, name, operands) for name in call.results}
    arrays = [jnp.asarray(operands[each]) for each in call.operands]
    memory: list[tuple[tuple[int, ...], Any]] = [(each.shape, each.dtype) for each in arrays]
    memory += [(right[name].shape, _dtype(case, name)) for name in call.results]
    bits, errors, in_poison = [], dict[str, float](), dict[str, bool]()
    passed = True
    for pattern, value in PATTERNS.items():
        what = f"{case} {case.dtype} {case.operator}, seed {seed}, memory full of {pattern}"
        reporter.running(what, case.to_json())
        poisoned = poison(memory, value)
        results = _results(call, program, arrays)
        in_poison |= {
            f"{name}, {pattern}": Range.of(result).lies_in(poisoned)
            for name, result in results.items()
        }
        found = jax.device_get(results)
        del results  # the next pattern fills this memory
        bits.append([array.tobytes() for array in found.values()])
        for name, array in found.items():
            errors[f"{name}, {pattern}"] = error = relative_error(array, right[name])
            if not error < _tolerance(case, name):
                passed = False
                where = f"{name} of {what}"
                _report_location(reporter, where, case, name, array, right[name], error)
                if name in ("dw", "dlogits"):
                    _report_wrong_steps(reporter, case, name, call, operands, program)
    same = all(each == bits[0] for each in bits)
    reporter.measured(case=case.to_json(), seed=seed, errors=errors, same_bits=same,
                  in_poison=in_poison, passed=passed and same)  # fmt: skip
    if not same:
        reporter.wrong(
            f"{case} {case.dtype} {case.operator}, seed {seed}: another run gave other bits"
        )
    return float(np.max([*errors.values()]))


def _results(call: Calls, program: Program, arrays: Sequence[jax.Array]) -> dict[str, jax.Array]:
    found = jax.block_until_ready(jax.tree.leaves(program(*arrays)))
    return dict(zip(call.results, found, strict=True))


def _dtype(case: Case, name: str) -> str:
    return case.kernels_dtype if name in ("dw", "dlogits") else case.dtype


def _tolerance(case: Case, name: str) -> float:
    y_tolerance, gradient_tolerance = TOLERANCES[case.dtype]
    return y_tolerance if name == "forward" else gradient_tolerance


def _report_location(
    reporter: Reporter, where: str, case: Case, name: str, found: npt.NDArray[Any],
    right: reference.Float64, error: float,
) -> None:  # fmt: skip
    difference = np.abs(found.astype(np.float64) - right)
    wrong = ~(difference < _tolerance(case, name) * np.abs(right).max())
    cell = {"forward": case.up, "dw": case.up, "dx": case.down, "dlogits": 1}[name]
    radius = -(-(case.kernel_size // 2) // case.down)
    step = channels_of_a_step(case, name) if name in ("forward", "dx") else None
    text, shares = location.describe(
        wrong, ~np.isfinite(difference), (cell, cell), radius, step_channels=step
    )
    reporter.measured(where=where, error=error, shares=shares)
    reporter.wrong(f"{where}: error {error:.1e}, {text}")


def _report_wrong_steps(
    reporter: Reporter,
    case: Case,
    name: str,
    call: Calls,
    operands: Mapping[str, npt.NDArray[Any]],
    program: Program,
) -> None:
    """Repeats a sum over channels with the channels of one step at a time, to find wrong steps."""
    wrong = []
    step_channels = channels_of_a_step(case, name)
    steps = range(0, case.channels, step_channels)
    for number, start in enumerate(steps):
        dy = np.zeros_like(operands["dy"])
        channels = slice(start, start + step_channels)
        dy[..., channels] = operands["dy"][..., channels]
        alone = {**operands, "dy": dy}
        found = _results(call, program, [jnp.asarray(alone[each]) for each in call.operands])
        error = relative_error(jax.device_get(found[name]), expected(case, name, alone))
        if not error < _tolerance(case, name):
            wrong.append(number)
    reporter.wrong(f"{name} with the channels of one step alone: wrong in {wrong} of {len(steps)}")
