"""The derivatives of reassembly from weights, of any order."""

import functools

import jax
from carafe_kernels.choice import implementation, run
from carafe_kernels.plan import Operands, Plan, Results, Slot


# Compiled in eager calls too, because XLA fuses the taps only inside one program.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _compute(plan: Plan, results: Results, operands: Operands) -> tuple[jax.Array, ...]:
    return run(plan, results, operands)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def contract(plan: Plan, result: Slot, operands: Operands) -> jax.Array:
    """Contracts the trilinear form ``sum(weights * y * gather(x))`` over two of its arguments.

    The result has the shape of the third argument. The derivative of a contraction with respect to
    an operand is the contraction for that operand, with the cotangent in place of the result. So
    one rule gives derivatives of any order, and an implementation defines three contractions and no
    derivatives.

    Args:
        plan: static data that the contraction and all its derivatives share.
        result: name of the argument of the form that is computed.
        operands: arrays of the two other arguments, by name.
    """
    (out,) = _compute(plan, (result,), operands)
    return out


def _contract_fwd(plan: Plan, result: Slot, operands: Operands) -> tuple[jax.Array, Operands]:
    return contract(plan, result, operands), operands


def _contract_bwd(
    plan: Plan, result: Slot, operands: Operands, cotangent: jax.Array
) -> tuple[Operands]:
    if result == "y" and implementation(plan.implementation).gradients_together(plan):
        return (_gradients_together(plan, {**operands, "y": cotangent}),)
    first, second = operands
    return (
        {
            first: contract(plan, first, {result: cotangent, second: operands[second]}),
            second: contract(plan, second, {result: cotangent, first: operands[first]}),
        },
    )


contract.defvjp(_contract_fwd, _contract_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradients_together(plan: Plan, operands: Operands) -> Operands:
    """Both gradients of a reassembly in one call, which reads the cotangent of ``y`` once."""
    dx, dweights = _compute(plan, ("x", "weights"), operands)
    return {"x": dx, "weights": dweights}


def _gradients_together_fwd(plan: Plan, operands: Operands) -> tuple[Operands, Operands]:
    return _gradients_together(plan, operands), operands


def _gradients_together_bwd(
    plan: Plan, operands: Operands, cotangents: Operands
) -> tuple[Operands]:
    def separate_gradients(operands: Operands) -> Operands:
        x, weights, y = operands["x"], operands["weights"], operands["y"]
        return {
            "x": contract(plan, "x", {"weights": weights, "y": y}),
            "weights": contract(plan, "weights", {"x": x, "y": y}),
        }

    (gradients,) = jax.vjp(separate_gradients, operands)[1](cotangents)
    return (gradients,)


_gradients_together.defvjp(_gradients_together_fwd, _gradients_together_bwd)
