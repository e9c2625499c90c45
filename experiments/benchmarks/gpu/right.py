"""Compares kernels with XLA in float64 on the same GPU, and XLA in float64 with NumPy."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.calls import operator, with_gradients
from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu.checks import (
    RESULTS,
    expected_results,
    random_operands,
    relative_error,
    within_tolerances,
)
from experiments.benchmarks.gpu.child import Reporter
from experiments.benchmarks.gpu.timing import compile_in_threads

_REFERENCE_CASES = {
    "real": (Case(2, 25, 42, 256, up=2), Case(2, 27, 33, 64, down=2)),
    "toy": (Case(2, 5, 6, 8, up=2), Case(2, 7, 6, 8, down=2)),
}
REFERENCE_TOLERANCE = 1e-12


def _program(case: Case, exact: bool) -> Any:
    """Compiles output and gradients: if ``exact`` by XLA in float64, otherwise by the kernels."""
    arguments = [
        jax.ShapeDtypeStruct(shape, "float64" if exact else dtype)
        for shape, dtype in case.operands.values()
    ]
    run = with_gradients(operator(case, "xla" if exact else "mosaic_gpu"))
    # The setting is local to a thread; a compiled program keeps its own.
    with jax.enable_x64(exact):
        return jax.jit(run).lower(*arguments).compile()


def _exact(program: Any, operands: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    with jax.enable_x64(True):
        return program(*(operand.astype(jnp.float64) for operand in operands))


def _errors(found: Sequence[jax.Array], exact: Sequence[jax.Array]) -> list[float]:
    """``max|a - b| / max|b|`` of each result, computed on the device one result at a time."""
    with jax.enable_x64(True):
        return [float(_error(a, b)) for a, b in zip(found, exact, strict=True)]


@jax.jit
def _error(found: jax.Array, exact: jax.Array) -> jax.Array:
    return jnp.abs(found.astype(jnp.float64) - exact).max() / jnp.abs(exact).max()


def reference(reporter: Reporter, size: str) -> str:
    """Compares XLA in float64 with the NumPy reference, which shares no code with it."""
    largest = 0.0
    for case in _REFERENCE_CASES[size]:
        for one in (case, case.replace(normalizer="softmax")):
            reporter.running(f"XLA in float64, {one} {one.operator}")
            operands = random_operands(one, seed=0)
            found = _exact(_program(one, True), [*map(jnp.asarray, operands)])
            pairs = zip(map(np.asarray, found), expected_results(one, operands), strict=True)
            errors = [relative_error(a, b) for a, b in pairs]
            reporter.measured(case=one.to_json(), errors=errors)
            largest = float(np.max([largest, *errors]))
            if not np.max(errors) < REFERENCE_TOLERANCE:
                reporter.wrong(f"{one} {one.operator}: errors of the reference {errors}")
    return f"largest error {largest:.1e}"


def right(reporter: Reporter, cases: Sequence[Mapping[str, Any]], seed: int) -> str:
    """Compares output and gradients of the kernels with the reference."""
    reporter.stage("compiling")
    both = [Case.from_json(case) for case in cases]
    programs = compile_in_threads({
        (case, exact): functools.partial(_program, case, exact)
        for case in both for exact in (False, True)
    })  # fmt: skip
    summary = []
    for case in both:
        reporter.running(case.operator, case.to_json())
        operands = _operands(case, seed)
        found = programs[case, False](*operands)
        again = programs[case, False](*operands)
        repeats = all(bool(jnp.array_equal(a, b)) for a, b in zip(found, again, strict=True))
        del again
        reporter.stage(f"comparing {case.operator}")
        errors = _errors(found, _exact(programs[case, True], operands))
        passed = repeats and within_tolerances(case, errors)
        reporter.measured(case=case.to_json(), errors=dict(zip(RESULTS, errors, strict=True)),
                      repeats=repeats, passed=passed)  # fmt: skip
        text = f"{case.operator} {', '.join(f'{error:.1e}' for error in errors)}"
        if not passed:
            reporter.wrong(f"{text}{'' if repeats else ', a second run gave other bits'}")
        summary.append(text)
    return f"errors of {', '.join(RESULTS)}: {'; '.join(summary)}"


def _operands(case: Case, seed: int) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(seed, impl="rbg"), 3)
    return [
        jax.random.normal(key, shape, jnp.dtype(dtype))
        for key, (shape, dtype) in zip(keys, case.operands.values(), strict=True)
    ]
