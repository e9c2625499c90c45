"""Compares the operators and their gradients with float64, at many shapes.

Every check runs a compiled program of the operator and both gradients twice. Some checks also run
it under ``vmap``.
"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from experiments.benchmarks.calls import operator, with_gradients
from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu import reference
from experiments.benchmarks.gpu.check_cases import VMAPPED
from experiments.benchmarks.gpu.child import Reporter
from experiments.benchmarks.gpu.timing import compile_in_threads

Arrays = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]

# Tolerances of max|a - b| / max|b|, for the output and for both gradients.
TOLERANCES = {"float32": (2e-5, 1e-4), "bfloat16": (1e-2, 1e-2), "float16": (1e-2, 1e-2)}
RESULTS = ("y", "dx", "dw")
ORACLE_THREADS = 3


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a check.

    Attributes:
        errors: relative errors of ``y``, ``dx`` and ``dw`` or ``dlogits``.
        repeats: whether a second run gave the same bits.
        vmap_error: largest relative error under ``vmap``; ``None`` if not checked.
        passed: whether all errors are within tolerance and the second run gave the same bits.
    """

    errors: tuple[float, float, float]
    repeats: bool
    vmap_error: float | None
    passed: bool


def random_operands(case: Case, seed: int) -> Arrays:
    """Random map, weights or logits, and cotangent of the output."""
    rng = np.random.default_rng(seed)
    x, kernels, dy = (
        rng.standard_normal(shape, np.float32).astype(jnp.dtype(dtype))
        for shape, dtype in case.operands.values()
    )
    return x, kernels, dy


def expected_results(case: Case, operands: Arrays) -> Arrays:
    """The expected ``y``, ``dx`` and ``dw`` or ``dlogits``, in float64."""
    x, kernels, dy = operands
    fused = case.normalizer is not None
    weights = reference.softmax_weights(case, kernels) if fused else kernels
    y = reference.forward(case, x, weights)
    dx = reference.input_gradient(case, weights, dy)
    dw = reference.weight_gradient(case, x, dy)
    return y, dx, reference.softmax_gradient(case, weights, dw) if fused else dw


def relative_error(found: npt.ArrayLike, expected: npt.NDArray[Any]) -> float:
    """``max|found - expected| / max|expected|``; NaN if ``found`` has a NaN."""
    difference = np.abs(np.asarray(found).astype(np.float64) - expected)
    return float(difference.max() / np.abs(expected).max())


def within_tolerances(case: Case, errors: Sequence[float]) -> bool:
    """Whether the errors of ``y`` and of both gradients are small; NaN is not."""
    y_tolerance, gradient_tolerance = TOLERANCES[case.dtype]
    y_error, *gradient_errors = errors
    return y_error < y_tolerance and all(error < gradient_tolerance for error in gradient_errors)


def compiled(case: Case, implementation: str, vmapped: bool) -> Callable[..., Any]:
    """Compiles the program of a check; with ``vmapped``, it maps over the images of the batch."""
    run: Callable[..., Any] = with_gradients(operator(case, implementation))
    arguments = [jax.ShapeDtypeStruct(*operand) for operand in case.operands.values()]
    if vmapped:
        run = jax.vmap(run)
        arguments = [s.update(shape=(s.shape[0], 1, *s.shape[1:])) for s in arguments]
    return jax.jit(run).lower(*arguments).compile()


def run_check(
    case: Case,
    operands: Arrays,
    expected: Arrays,
    program: Callable[..., Any],
    vmapped: Callable[..., Any] | None = None,
) -> Outcome:
    """Compares the results of a program, and of its ``vmap``, with expected results."""
    arrays = [jnp.asarray(operand) for operand in operands]
    first, second = (jax.device_get(program(*arrays)) for _ in range(2))
    y_error, dx_error, dw_error = map(relative_error, first, expected)
    repeats = all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))
    vmap_error = None
    passed = repeats and within_tolerances(case, (y_error, dx_error, dw_error))
    if vmapped is not None:
        found = jax.device_get(vmapped(*(array[:, None] for array in arrays)))
        errors = [relative_error(a[:, 0], b) for a, b in zip(found, expected, strict=True)]
        passed = passed and within_tolerances(case, errors)
        vmap_error = float(np.max(errors))
    return Outcome((y_error, dx_error, dw_error), repeats, vmap_error, passed)


def checks(reporter: Reporter, cases: Sequence[tuple[int, Mapping[str, Any]]]) -> str:
    """Checks cases against the float64 reference.

    Args:
        reporter: reporter that sends messages to the parent process.
        cases: seed of the operands, and case in JSON, for each check.
    """
    mine = [(seed, Case.from_json(case)) for seed, case in cases]

    def prepared(seed: int, case: Case) -> tuple[Arrays, Arrays]:
        operands = random_operands(case, seed)
        return operands, expected_results(case, operands)

    with concurrent.futures.ThreadPoolExecutor(ORACLE_THREADS) as pool:
        waiting = [pool.submit(prepared, *each) for each in mine]
        reporter.stage(f"compiling {len(mine)} checks")
        wanted = [(case, False) for _, case in mine]
        wanted += [(case, True) for _, case in mine if case in VMAPPED]
        programs = compile_in_threads({
            key: functools.partial(compiled, key[0], "mosaic_gpu", key[1]) for key in wanted
        })  # fmt: skip
        for (_, case), future in zip(mine, waiting, strict=True):
            what = f"{case} {case.dtype} {case.operator}"
            reporter.running(what, case.to_json())
            found = run_check(
                case, *future.result(), programs[case, False], programs.get((case, True))
            )
            reporter.measured(case=case.to_json(), **dataclasses.asdict(found))
            if not found.passed:
                numbers = ", ".join(f"{error:.1e}" for error in found.errors)
                bits = "same" if found.repeats else "other"
                reporter.wrong(
                    f"{what}: errors {numbers}, vmap {found.vmap_error}, "
                    f"{bits} bits in a second run"
                )
    return f"{len(mine)} checks"
