"""The operators of a case, and the GPU kernels below them one by one, as functions of arrays."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from carafe_kernels import mosaic_gpu
from carafe_kernels.geometry import Geometry

import carafe_jax
from carafe_jax.plan import Implementation
from experiments.benchmarks.cases import Case


def operator(
    case: Case, implementation: Implementation
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The operator as a function of the map and the weights or logits."""
    options = case.options if case.normalizer is None else {
        **case.options, "normalizer": case.normalizer
    }  # fmt: skip
    function = getattr(carafe_jax, case.operator)
    return functools.partial(function, **options, implementation=implementation)


def with_gradients(
    function: Callable[[jax.Array, jax.Array], jax.Array],
) -> Callable[..., tuple[jax.Array, ...]]:
    """The output and both gradients, as a function of the operands and a cotangent."""

    def run(x: jax.Array, kernels: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
        y, pullback = jax.vjp(function, x, kernels)
        return y, *pullback(dy)

    return run


class KernelCall(NamedTuple):
    """A function of one kernel, and which operands it takes: ``x``, ``kernels``, ``dy``."""

    function: Callable[..., jax.Array | tuple[jax.Array, ...]]
    operands: tuple[str, ...]


def kernel_calls(case: Case) -> dict[str, KernelCall]:
    """The three kernels of a case, with the settings of where this is called."""
    geometry, size = Geometry(**case.options), (case.height, case.width)
    settings, normalizer = mosaic_gpu.current_settings(), case.normalizer
    if normalizer is None:
        dtype = jnp.dtype(case.kernels_dtype)
        return {
            "forward": KernelCall(
                lambda x, w: mosaic_gpu.forward(x, w, geometry, settings), ("x", "kernels")
            ),
            "dx": KernelCall(
                lambda w, y: mosaic_gpu.input_gradient(w, y, geometry, size, settings),
                ("kernels", "dy"),
            ),
            "dw": KernelCall(
                lambda x, y: mosaic_gpu.weight_gradient(x, y, geometry, dtype, settings),
                ("x", "dy"),
            ),
        }
    return {
        "forward": KernelCall(
            lambda x, w: mosaic_gpu.forward_from_logits(x, w, geometry, normalizer, settings),
            ("x", "kernels"),
        ),
        "dx": KernelCall(
            lambda w, y: mosaic_gpu.input_gradient_from_logits(
                w, y, geometry, size, normalizer, settings
            ),
            ("kernels", "dy"),
        ),
        "dlogits": KernelCall(
            lambda x, w, y: mosaic_gpu.logit_gradient(x, w, y, geometry, normalizer, settings),
            ("x", "kernels", "dy"),
        ),
    }


def both_gradients(case: Case) -> KernelCall:
    """The one kernel that computes both gradients, with the settings of where this is called."""
    geometry, settings = Geometry(**case.options), mosaic_gpu.current_settings()
    normalizer = case.normalizer
    if normalizer is None:
        return KernelCall(
            lambda x, w, y: mosaic_gpu.gradients(x, w, y, geometry, settings),
            ("x", "kernels", "dy"),
        )
    return KernelCall(
        lambda x, w, y: mosaic_gpu.gradients_from_logits(x, w, y, geometry, normalizer, settings),
        ("x", "kernels", "dy"),
    )
