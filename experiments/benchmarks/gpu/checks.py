"""The GPU kernels against float64, at shapes that are used.

Every check runs the operator and both gradients twice, as a program that is compiled once, and
some run it under ``vmap`` too.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from carafe_jax import carafe, reassemble
from carafe_jax.differentiation import Implementation
from experiments.benchmarks.gpu import reference
from experiments.benchmarks.gpu.reference import Case

Arrays = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]

# max|a - b| / max|b|: of the output, and of both gradients.
TOLERANCES = {"float32": (2e-5, 1e-4), "bfloat16": (1e-2, 1e-2), "float16": (1e-2, 1e-2)}
RESULTS = ("y", "dx", "dw")


@dataclasses.dataclass(frozen=True)
class Check:
    """A case, from weights or from logits, which are normalised in the kernel."""

    case: Case
    fused: bool = False
    vmapped: bool = False

    def __str__(self) -> str:
        return f"{self.case} {self.case.dtype} {'carafe' if self.fused else 'reassemble'}"


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


# The shapes of the detector first, then geometries that differ in their tiles, in small.
_CASES = (
    Case(2, 50, 84, 256, up=2),
    Case(2, 50, 84, 256, up=2, dtype="bfloat16"),
    Case(2, 56, 56, 256, down=2),
    Case(2, 56, 56, 256, down=2, dtype="bfloat16"),
    Case(2, 25, 42, 256, up=2, dtype="float16"),
    Case(3, 21, 19, 256, up=2, groups=2),
    Case(2, 29, 31, 24, kernel_size=3, up=2),
    Case(2, 21, 19, 100, kernel_size=7, up=2, dtype="bfloat16"),
    Case(2, 31, 29, 100, kernel_size=3, down=2),
    Case(2, 27, 33, 24, kernel_size=7, down=2, dtype="bfloat16"),
    Case(2, 17, 23, 24, up=3),
    Case(2, 13, 15, 100, kernel_size=3, up=4, dtype="float16"),
    Case(2, 31, 37, 24, down=3),
    Case(1, 33, 41, 3, up=2),
    Case(2, 25, 27, 24, down=2, groups=2, dtype="bfloat16"),
    Case(2, 11, 13, 100, kernel_size=7, up=3, dtype="bfloat16"),
    Case(1, 29, 35, 3, kernel_size=7, down=3, dtype="float16"),
    Case(2, 9, 11, 24, up=4, dtype="bfloat16"),
    Case(2, 13, 11, 100, kernel_size=3, up=3, groups=2, dtype="float16"),
    Case(2, 19, 23, 256, kernel_size=3, dtype="bfloat16"),
)
_VMAPPED = (Case(2, 29, 31, 24, kernel_size=3, up=2), Case(2, 31, 29, 100, kernel_size=3, down=2))

CHECKS = tuple(Check(case, fused, case in _VMAPPED) for case in _CASES for fused in (False, True))


def operator(
    case: Case, fused: bool, implementation: Implementation
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The operator as a function of the map and the weights or logits."""
    function = carafe if fused else reassemble
    return functools.partial(function, **case.options, implementation=implementation)


def kernel_shape(case: Case, fused: bool) -> tuple[int, ...]:
    """Of the weights, or of the logits."""
    return case.logits_shape if fused else case.weights_shape


def kernel_dtype(case: Case, fused: bool) -> str:
    """Weights come in float32, logits as the convolutions of the map gave them."""
    return case.dtype if fused else "float32"


def random_operands(check: Check, seed: int) -> Arrays:
    """The map, the weights or logits, and a cotangent of the output."""
    case, rng = check.case, np.random.default_rng(seed)
    shapes = case.x_shape, kernel_shape(case, check.fused), case.y_shape
    dtypes = case.dtype, kernel_dtype(case, check.fused), case.dtype
    x, kernels, dy = (
        rng.standard_normal(shape, np.float32).astype(jnp.dtype(dtype))
        for shape, dtype in zip(shapes, dtypes, strict=True)
    )
    return x, kernels, dy


def expected_results(check: Check, operands: Arrays) -> Arrays:
    """``y``, ``dx`` and ``dw`` or ``dlogits`` in float64."""
    case, (x, kernels, dy) = check.case, operands
    weights = reference.softmax_weights(case, kernels) if check.fused else kernels
    y = reference.forward(case, x, weights)
    dx = reference.input_gradient(case, weights, dy)
    dw = reference.weight_gradient(case, x, dy)
    return y, dx, reference.softmax_gradient(case, weights, dw) if check.fused else dw


def relative_error(found: npt.ArrayLike, expected: npt.NDArray[Any]) -> float:
    """``max|found - expected| / max|expected|``; NaN if any of ``found`` is."""
    difference = np.abs(np.asarray(found).astype(np.float64) - expected)
    return float(difference.max() / np.abs(expected).max())


def run_check(
    check: Check,
    operands: Arrays,
    expected: Arrays,
    implementation: Implementation = "mosaic_gpu",
) -> Outcome:
    """Runs a check; raises whatever the operator raises."""
    function = operator(check.case, check.fused, implementation)

    def results(x: jax.Array, kernels: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
        y, pullback = jax.vjp(function, x, kernels)
        return y, *pullback(dy)

    arrays = [jnp.asarray(operand) for operand in operands]
    program = jax.jit(results)
    first, second = (jax.device_get(program(*arrays)) for _ in range(2))
    y_error, dx_error, dw_error = map(relative_error, first, expected)
    repeats = all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))
    vmap_error = _vmap_error(results, arrays, expected) if check.vmapped else None
    y_tolerance, gradient_tolerance = TOLERANCES[check.case.dtype]
    # A comparison with NaN is false, so it never passes.
    passed = (
        repeats
        and y_error < y_tolerance
        and dx_error < gradient_tolerance
        and dw_error < gradient_tolerance
        and (vmap_error is None or vmap_error < gradient_tolerance)
    )
    return Outcome((y_error, dx_error, dw_error), repeats, vmap_error, passed)


def _vmap_error(
    results: Callable[..., tuple[jax.Array, ...]], arrays: list[jax.Array], expected: Arrays
) -> float:
    """The largest error where every map of the batch is a batch of its own."""
    found = jax.jit(jax.vmap(results))(*(array[:, None] for array in arrays))
    pairs = zip(jax.device_get(found), expected, strict=True)
    return float(np.max([relative_error(a[:, 0], b) for a, b in pairs]))
