"""The derivatives of reassembly from logits, for implementations that fuse the normaliser."""

import functools

import jax
from carafe_kernels.choice import implementation, run
from carafe_kernels.normalizers import normalize
from carafe_kernels.plan import Operands, Plan, Results

from carafe_jax._differentiation import contract


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def reassemble_logits(plan: Plan, operands: Operands) -> jax.Array:
    """Normalises ``logits`` and reassembles ``x`` in one kernel; the gradient normalises again."""
    (y,) = _compute(plan, ("y",), operands)
    return y


def _reassemble_logits_fwd(plan: Plan, operands: Operands) -> tuple[jax.Array, Operands]:
    return reassemble_logits(plan, operands), operands


def _reassemble_logits_bwd(plan: Plan, operands: Operands, cotangent: jax.Array) -> tuple[Operands]:
    return (_logit_gradients(plan, {**operands, "y": cotangent}),)


reassemble_logits.defvjp(_reassemble_logits_fwd, _reassemble_logits_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _logit_gradients(plan: Plan, operands: Operands) -> Operands:
    """The gradients of :func:`reassemble_logits`, given the cotangent of ``y``."""
    if implementation(plan.implementation).gradients_together(plan):
        dx, dlogits = _compute(plan, ("x", "logits"), operands)
    else:
        x_operands: Operands = {"logits": operands["logits"], "y": operands["y"]}
        (dx,) = _compute(plan, ("x",), x_operands)
        (dlogits,) = _compute(plan, ("logits",), operands)
    return {"x": dx, "logits": dlogits}


def _logit_gradients_fwd(plan: Plan, operands: Operands) -> tuple[Operands, Operands]:
    return _logit_gradients(plan, operands), operands


def _logit_gradients_bwd(plan: Plan, operands: Operands, cotangents: Operands) -> tuple[Operands]:
    # Second derivatives are rare, so they take two steps, which have derivatives of any order.
    gradients = functools.partial(_in_two_steps, plan, ("x", "logits"))
    _, pullback = jax.vjp(gradients, operands)
    (operand_gradients,) = pullback((cotangents["x"], cotangents["logits"]))
    return (operand_gradients,)


_logit_gradients.defvjp(_logit_gradients_fwd, _logit_gradients_bwd)


def _in_two_steps(plan: Plan, results: Results, operands: Operands) -> tuple[jax.Array, ...]:
    """Normalises the logits into weights in memory, and contracts with these weights."""
    normalizer, of_weights = plan.normalizer, plan.of_weights
    assert normalizer is not None, "plans of logits have a normaliser"
    weights, pullback = jax.vjp(
        lambda logits: normalize(logits, plan.geometry, plan.size, normalizer), operands["logits"]
    )
    found = []
    for result in results:
        match result:
            case "y":
                found.append(contract(of_weights, "y", {"x": operands["x"], "weights": weights}))
            case "x":
                found.append(contract(of_weights, "x", {"weights": weights, "y": operands["y"]}))
            case "logits":
                dweights = contract(of_weights, "weights", {"x": operands["x"], "y": operands["y"]})
                found.extend(pullback(dweights))
    return tuple(found)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compute(plan: Plan, results: Results, operands: Operands) -> tuple[jax.Array, ...]:
    return run(plan, results, operands, fallback=_in_two_steps)
