"""The derivatives of reassembly from weights, of any order."""

import functools

import jax
from carafe_kernels import xla

from carafe_jax.plan import Plan, Slot, kernels

type _Operands = tuple[jax.Array, ...]


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
