"""The derivatives of reassembly, of any order, and the implementations that compute them."""

import dataclasses
import functools
import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
import numpy as np
from carafe_kernels import xla
from carafe_kernels.geometry import Geometry
from carafe_kernels.normalizers import normalize

if TYPE_CHECKING:
    from carafe_kernels.mosaic_gpu.settings import Settings

Implementation = Literal["xla", "mosaic_gpu"]
Normalizer = Literal["softmax", "sigmoid", "sigmoid_normalized"]


def kernels(implementation: Implementation) -> ModuleType:
    """The module of an implementation.

    That of the GPU kernels takes as long to import as JAX itself, and is not asked for on a CPU.
    """
    return importlib.import_module(f"carafe_kernels.{implementation}")


Slot = Literal["x", "weights", "y"]
type _Operands = tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What stays fixed through all derivatives of one reassembly.

    Args:
        geometry: shape of the reassembly.
        size: ``(H, W)`` of the map.
        x_dtype: of the map and of the result.
        weights_dtype: of the weights, or of the logits.
        implementation: what computes.
        automatic: whether ``"xla"`` computes where a program is lowered for a platform that the
            implementation does not serve; else that is an error.
        settings: how the kernels of ``"mosaic_gpu"`` are compiled; ``None`` for ``"xla"``.
    """

    geometry: Geometry
    size: tuple[int, int]
    x_dtype: np.dtype
    weights_dtype: np.dtype
    implementation: Implementation
    automatic: bool
    settings: "Settings | None" = None

    @property
    def accumulator(self) -> np.dtype:
        return jnp.promote_types(jnp.promote_types(self.x_dtype, self.weights_dtype), jnp.float32)

    def gradients_together(self, *, from_logits: bool) -> bool:
        """Whether one kernel computes both gradients of a reassembly."""
        if self.implementation != "mosaic_gpu":
            return False
        return kernels("mosaic_gpu").gradients_together(
            self.geometry, self.x_dtype, self.settings, from_logits=from_logits
        )

    def dtype(self, slot: Slot) -> np.dtype:
        return self.weights_dtype if slot == "weights" else self.x_dtype


# Compiled also when called eagerly: op by op, the taps would not fuse.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _compute(plan: Plan, result: Slot, operands: dict[Slot, jax.Array]) -> jax.Array:
    if plan.implementation == "xla":
        return _by_xla(plan, result, operands)
    by_kernel = functools.partial(_by_mosaic_gpu, plan, result)
    if not plan.automatic:
        return by_kernel(operands)
    by_xla = functools.partial(_by_xla, plan, result)
    return jax.lax.platform_dependent(operands, cuda=by_kernel, default=by_xla)


def _by_xla(plan: Plan, result: Slot, operands: dict[Slot, jax.Array]) -> jax.Array:
    dtype = plan.accumulator
    match result:
        case "y":
            out = xla.forward(operands["x"], operands["weights"], plan.geometry, dtype)
        case "x":
            out = xla.input_gradient(
                operands["weights"], operands["y"], plan.geometry, plan.size, dtype
            )
        case "weights":
            out = xla.weight_gradient(operands["x"], operands["y"], plan.geometry, dtype)
    return out.astype(plan.dtype(result))


def _by_mosaic_gpu(plan: Plan, result: Slot, operands: dict[Slot, jax.Array]) -> jax.Array:
    mosaic_gpu = kernels("mosaic_gpu")
    match result:
        case "y":
            return mosaic_gpu.forward(
                operands["x"], operands["weights"], plan.geometry, plan.settings
            )
        case "x":
            return mosaic_gpu.input_gradient(
                operands["weights"], operands["y"], plan.geometry, plan.size, plan.settings
            )
        case "weights":
            return mosaic_gpu.weight_gradient(
                operands["x"],
                operands["y"],
                plan.geometry,
                plan.weights_dtype,
                plan.settings,
            )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def contract(plan: Plan, result: Slot, operands: dict[Slot, jax.Array]) -> jax.Array:
    """Contracts the trilinear form ``sum(weights * y * gather(x))`` to the slot left out.

    A derivative of a contraction with respect to an operand is the contraction that leaves this
    operand out, with the cotangent in the slot of the result. So one rule differentiates to any
    order, and every implementation brings three functions and no rule of its own.
    """
    return _compute(plan, result, operands)


def _contract_fwd(
    plan: Plan, result: Slot, operands: dict[Slot, jax.Array]
) -> tuple[jax.Array, dict[Slot, jax.Array]]:
    return contract(plan, result, operands), operands


def _contract_bwd(
    plan: Plan, result: Slot, operands: dict[Slot, jax.Array], cotangent: jax.Array
) -> tuple[dict[Slot, jax.Array]]:
    if result == "y" and plan.gradients_together(from_logits=False):
        return (_gradients_together(plan, operands, cotangent),)
    first, second = operands
    return (
        {
            first: contract(plan, first, {result: cotangent, second: operands[second]}),
            second: contract(plan, second, {result: cotangent, first: operands[first]}),
        },
    )


contract.defvjp(_contract_fwd, _contract_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradients_together(
    plan: Plan, operands: dict[Slot, jax.Array], y: jax.Array
) -> dict[Slot, jax.Array]:
    """Both gradients of a reassembly by one kernel, which reads the gradient by ``y`` once."""
    return _compute_together(plan, operands, y)


@functools.partial(jax.jit, static_argnums=0)
def _compute_together(
    plan: Plan, operands: dict[Slot, jax.Array], y: jax.Array
) -> dict[Slot, jax.Array]:
    def by_kernel(x: jax.Array, weights: jax.Array, y: jax.Array) -> _Operands:
        return kernels("mosaic_gpu").gradients(x, weights, y, plan.geometry, plan.settings)

    def by_xla(x: jax.Array, weights: jax.Array, y: jax.Array) -> _Operands:
        return (
            _by_xla(plan, "x", {"weights": weights, "y": y}),
            _by_xla(plan, "weights", {"x": x, "y": y}),
        )

    arrays = operands["x"], operands["weights"], y
    if plan.automatic:
        dx, dw = jax.lax.platform_dependent(*arrays, cuda=by_kernel, default=by_xla)
    else:
        dx, dw = by_kernel(*arrays)
    return {"x": dx, "weights": dw}


def _gradients_together_fwd(
    plan: Plan, operands: dict[Slot, jax.Array], y: jax.Array
) -> tuple[dict[Slot, jax.Array], tuple[dict[Slot, jax.Array], jax.Array]]:
    return _gradients_together(plan, operands, y), (operands, y)


def _gradients_together_bwd(
    plan: Plan,
    arrays: tuple[dict[Slot, jax.Array], jax.Array],
    cotangents: dict[Slot, jax.Array],
) -> tuple[dict[Slot, jax.Array], jax.Array]:
    def apart(operands: dict[Slot, jax.Array], y: jax.Array) -> dict[Slot, jax.Array]:
        return {
            "x": contract(plan, "x", {"weights": operands["weights"], "y": y}),
            "weights": contract(plan, "weights", {"x": operands["x"], "y": y}),
        }

    operands, y = jax.vjp(apart, *arrays)[1](cotangents)
    return operands, y


_gradients_together.defvjp(_gradients_together_fwd, _gradients_together_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def reassemble_logits(
    plan: Plan, normalizer: Normalizer, x: jax.Array, logits: jax.Array
) -> jax.Array:
    """Normalises ``logits`` and reassembles ``x`` in one kernel; its gradient normalises again."""
    return _compute_from_logits(plan, normalizer, "y", (x, logits))


def _reassemble_logits_fwd(
    plan: Plan, normalizer: Normalizer, x: jax.Array, logits: jax.Array
) -> tuple[jax.Array, _Operands]:
    return reassemble_logits(plan, normalizer, x, logits), (x, logits)


def _reassemble_logits_bwd(
    plan: Plan, normalizer: Normalizer, operands: _Operands, cotangent: jax.Array
) -> _Operands:
    return _logit_gradients(plan, normalizer, *operands, cotangent)


reassemble_logits.defvjp(_reassemble_logits_fwd, _reassemble_logits_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _logit_gradients(plan: Plan, normalizer: Normalizer, *operands: jax.Array) -> _Operands:
    """The gradients of :func:`reassemble_logits`, from its operands and the gradient by ``y``."""
    if plan.gradients_together(from_logits=True):
        return _compute_together_from_logits(plan, normalizer, operands)
    return (
        _compute_from_logits(plan, normalizer, "x", operands),
        _compute_from_logits(plan, normalizer, "weights", operands),
    )


def _logit_gradients_fwd(
    plan: Plan, normalizer: Normalizer, *operands: jax.Array
) -> tuple[_Operands, _Operands]:
    return _logit_gradients(plan, normalizer, *operands), operands


def _logit_gradients_bwd(
    plan: Plan, normalizer: Normalizer, operands: _Operands, cotangents: _Operands
) -> _Operands:
    # Second derivatives are rare: they take two steps, each of which has derivatives of any order.
    gradients = functools.partial(_gradients_in_two_steps, plan, normalizer)
    return tuple(jax.vjp(gradients, *operands)[1](cotangents))


_logit_gradients.defvjp(_logit_gradients_fwd, _logit_gradients_bwd)


def _in_two_steps(plan: Plan, normalizer: Normalizer, x: jax.Array, logits: jax.Array) -> jax.Array:
    """:func:`reassemble_logits`, with the weights in memory between normalising and reassembly."""
    weights = normalize(logits, plan.geometry, plan.size, normalizer)
    plan = dataclasses.replace(plan, weights_dtype=weights.dtype)
    return contract(plan, "y", {"x": x, "weights": weights})


def _gradients_in_two_steps(
    plan: Plan, normalizer: Normalizer, x: jax.Array, logits: jax.Array, y: jax.Array
) -> _Operands:
    _, pullback = jax.vjp(functools.partial(_in_two_steps, plan, normalizer), x, logits)
    return tuple(pullback(y))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _compute_from_logits(
    plan: Plan, normalizer: Normalizer, result: Slot, operands: _Operands
) -> jax.Array:
    mosaic_gpu = kernels("mosaic_gpu")

    def by_kernel(x: jax.Array, logits: jax.Array, *y: jax.Array) -> jax.Array:
        fixed = normalizer, plan.settings
        match result:
            case "y":
                return mosaic_gpu.forward_from_logits(x, logits, plan.geometry, *fixed)
            case "x":
                return mosaic_gpu.input_gradient_from_logits(
                    logits, *y, plan.geometry, plan.size, *fixed
                )
            case "weights":
                return mosaic_gpu.logit_gradient(x, logits, *y, plan.geometry, *fixed)

    def by_xla(*operands: jax.Array) -> jax.Array:
        by_xla = dataclasses.replace(plan, implementation="xla")
        if result == "y":
            return _in_two_steps(by_xla, normalizer, *operands)
        dx, dlogits = _gradients_in_two_steps(by_xla, normalizer, *operands)
        return dx if result == "x" else dlogits

    if not plan.automatic:
        return by_kernel(*operands)
    return jax.lax.platform_dependent(*operands, cuda=by_kernel, default=by_xla)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compute_together_from_logits(
    plan: Plan, normalizer: Normalizer, operands: _Operands
) -> _Operands:
    def by_kernel(x: jax.Array, logits: jax.Array, y: jax.Array) -> _Operands:
        return kernels("mosaic_gpu").gradients_from_logits(
            x, logits, y, plan.geometry, normalizer, plan.settings
        )

    if not plan.automatic:
        return by_kernel(*operands)
    by_xla = dataclasses.replace(plan, implementation="xla")
    return jax.lax.platform_dependent(
        *operands,
        cuda=by_kernel,
        default=functools.partial(_gradients_in_two_steps, by_xla, normalizer),
    )
