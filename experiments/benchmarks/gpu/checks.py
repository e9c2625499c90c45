"""The operators and their gradients against float64, at shapes that are used or odd.

Every check runs the operator and both gradients twice, as a program that is compiled once, and
some run it under ``vmap`` too.
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
from experiments.benchmarks.gpu.child import Tell
from experiments.benchmarks.gpu.timing import compile_in_threads

Arrays = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]

# max|a - b| / max|b|: of the output, and of both gradients.
TOLERANCES = {"float32": (2e-5, 1e-4), "bfloat16": (1e-2, 1e-2), "float16": (1e-2, 1e-2)}
RESULTS = ("y", "dx", "dw")
ORACLE_THREADS = 3


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a check found.

    Attributes:
        errors: of ``y``, ``dx`` and ``dw`` or ``dlogits``.
        repeats: whether a second run gave the same bits.
        vmap_error: the largest error under ``vmap``; ``None`` where that was not tried.
        passed: whether all of this is as it should be.
    """

    errors: tuple[float, float, float]
    repeats: bool
    vmap_error: float | None
    passed: bool


def random_operands(case: Case, seed: int) -> Arrays:
    """The map, the weights or logits, and a cotangent of the output."""
    rng = np.random.default_rng(seed)
    x, kernels, dy = (
        rng.standard_normal(shape, np.float32).astype(jnp.dtype(dtype))
        for shape, dtype in case.operands.values()
    )
    return x, kernels, dy


def expected_results(case: Case, operands: Arrays) -> Arrays:
    """``y``, ``dx`` and ``dw`` or ``dlogits`` in float64."""
    x, kernels, dy = operands
    fused = case.normalizer is not None
    weights = reference.softmax_weights(case, kernels) if fused else kernels
    y = reference.forward(case, x, weights)
    dx = reference.input_gradient(case, weights, dy)
    dw = reference.weight_gradient(case, x, dy)
    return y, dx, reference.softmax_gradient(case, weights, dw) if fused else dw


def relative_error(found: npt.ArrayLike, expected: npt.NDArray[Any]) -> float:
    """``max|found - expected| / max|expected|``; NaN if any of ``found`` is."""
    difference = np.abs(np.asarray(found).astype(np.float64) - expected)
    return float(difference.max() / np.abs(expected).max())


def within_tolerances(case: Case, errors: Sequence[float]) -> bool:
    """Whether the errors of ``y`` and both gradients are small. A comparison with NaN is false."""
    y_tolerance, gradient_tolerance = TOLERANCES[case.dtype]
    y_error, *gradient_errors = errors
    return y_error < y_tolerance and all(error < gradient_tolerance for error in gradient_errors)


def compiled(case: Case, implementation: str, vmapped: bool) -> Callable[..., Any]:
    """The program of a check; with ``vmapped``, one in which every map is a batch of its own."""
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
    """Compares what programs give with what is expected."""
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


def checks(tell: Tell, cases: Sequence[tuple[int, Mapping[str, Any]]]) -> str:
    """Checks cases, each with the seed of its operands.

    Args:
        tell: sends messages.
        cases: seed and case.
    """
    mine = [(seed, Case.from_json(case)) for seed, case in cases]

    def prepared(seed: int, case: Case) -> tuple[Arrays, Arrays]:
        operands = random_operands(case, seed)
        return operands, expected_results(case, operands)

    with concurrent.futures.ThreadPoolExecutor(ORACLE_THREADS) as pool:
        waiting = [pool.submit(prepared, *each) for each in mine]
        tell.stage(f"compiling {len(mine)} checks")
        wanted = [(case, False) for _, case in mine]
        wanted += [(case, True) for _, case in mine if case in VMAPPED]
        programs = compile_in_threads({
            key: functools.partial(compiled, key[0], "mosaic_gpu", key[1]) for key in wanted
        })  # fmt: skip
        for (_, case), future in zip(mine, waiting, strict=True):
            what = f"{case} {case.dtype} {case.operator}"
            tell.running(what, case.to_json())
            found = run_check(
                case, *future.result(), programs[case, False], programs.get((case, True))
            )
            tell.measured(case=case.to_json(), **dataclasses.asdict(found))
            if not found.passed:
                numbers = ", ".join(f"{error:.1e}" for error in found.errors)
                same = "same bits again" if found.repeats else "other bits again"
                tell.wrong(f"{what}: errors {numbers}, vmap {found.vmap_error}, {same}")
    return f"{len(mine)} checks"
