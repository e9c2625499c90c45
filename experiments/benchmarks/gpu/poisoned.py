"""Compares a program with float64 in memory that was full of something else."""

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
from experiments.benchmarks.gpu.child import Tell
from experiments.benchmarks.gpu.memory import PATTERNS, Range, poison

Program = Callable[..., Any]


class Calls(NamedTuple):
    """A function that gives one array, or several, and which operands it takes."""

    function: Callable[..., Any]
    operands: Sequence[str]
    results: Sequence[str]


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


def check(tell: Tell, case: Case, call: Calls, program: Program, seed: int) -> float:
    """Compares a program with float64 under every pattern; returns the largest error.

    Tells for each result whether it lay in memory that was full of the pattern: only there does an
    element that is never written show.
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
        tell.running(what, case.to_json())
        poisoned = poison(memory, value)
        results = _results(call, program, arrays)
        in_poison |= {
            f"{name}, {pattern}": Range.of(result).lies_in(poisoned)
            for name, result in results.items()
        }
        found = jax.device_get(results)
        del results  # the next pattern needs their memory
        bits.append([array.tobytes() for array in found.values()])
        for name, array in found.items():
            errors[f"{name}, {pattern}"] = error = relative_error(array, right[name])
            if not error < _tolerance(case, name):
                passed = False
                where = f"{name} of {what}"
                _say_where(tell, where, case, name, array, right[name], error)
                if name in ("dw", "dlogits"):
                    _say_which_step(tell, case, name, call, operands, program)
    same = all(each == bits[0] for each in bits)
    tell.measured(case=case.to_json(), seed=seed, errors=errors, same_bits=same,
                  in_poison=in_poison, passed=passed and same)  # fmt: skip
    if not same:
        tell.wrong(f"{case} {case.dtype} {case.operator}, seed {seed}: another run, other bits")
    return float(np.max([*errors.values()]))


def _results(call: Calls, program: Program, arrays: Sequence[jax.Array]) -> dict[str, jax.Array]:
    found = jax.block_until_ready(jax.tree.leaves(program(*arrays)))
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
    step = channels_of_a_step(case, name) if name in ("forward", "dx") else None
    text, shares = location.describe(
        wrong, ~np.isfinite(difference), (cell, cell), radius, step_channels=step
    )
    tell.measured(where=where, error=error, shares=shares)
    tell.wrong(f"{where}: error {error:.1e}, {text}")


def _say_which_step(
    tell: Tell, case: Case, name: str, call: Calls, operands: Mapping[str, npt.NDArray[Any]],
    program: Program,
) -> None:  # fmt: skip
    """Runs again with the channels of one step alone: sums over channels hide which are wrong."""
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
    tell.wrong(f"{name} with the channels of one step alone: wrong in {wrong} of {len(steps)}")
