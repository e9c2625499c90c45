"""The single GPU kernels of a case, as functions of arrays."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from carafe_kernels import mosaic_gpu
from carafe_kernels.geometry import Geometry
from carafe_kernels.plan import Plan, Results, Slot

from experiments.benchmarks.cases import Case


class KernelCall(NamedTuple):
    """A function that runs a kernel, and the names of its operands: ``x``, ``kernels``, ``dy``."""

    function: Callable[..., jax.Array | tuple[jax.Array, ...]]
    operands: tuple[str, ...]


def kernel_calls(case: Case) -> dict[str, KernelCall]:
    """The three kernels of a case, with the settings that are current when this is called."""
    if case.normalizer is None:
        return {
            "forward": _call(case, ("y",), ("x", "kernels")),
            "dx": _call(case, ("x",), ("kernels", "dy")),
            "dw": _call(case, ("weights",), ("x", "dy")),
        }
    return {
        "forward": _call(case, ("y",), ("x", "kernels")),
        "dx": _call(case, ("x",), ("kernels", "dy")),
        "dlogits": _call(case, ("logits",), ("x", "kernels", "dy")),
    }


def both_gradients(case: Case) -> KernelCall:
    """The kernel that computes both gradients, with the settings that are current now."""
    slot: Slot = "weights" if case.normalizer is None else "logits"
    return _call(case, ("x", slot), ("x", "kernels", "dy"))


def _call(case: Case, results: Results, operands: tuple[str, ...]) -> KernelCall:
    plan = Plan(
        Geometry(**case.options),
        case.size,
        jnp.dtype(case.dtype),
        jnp.dtype(case.kernels_dtype),
        case.normalizer,
        "mosaic_gpu",
        settings=mosaic_gpu.current_settings(),
    )
    slots: dict[str, Slot] = {
        "x": "x",
        "kernels": "weights" if case.normalizer is None else "logits",
        "dy": "y",
    }

    def run(*arrays: jax.Array) -> jax.Array | tuple[jax.Array, ...]:
        named = {slots[name]: array for name, array in zip(operands, arrays, strict=True)}
        found = mosaic_gpu.IMPLEMENTATION.contract(plan, results, named)
        return found if len(found) > 1 else found[0]

    return KernelCall(run, operands)
