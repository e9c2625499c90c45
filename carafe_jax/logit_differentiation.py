"""The derivatives of reassembly from logits, for kernels that normalise by themselves."""

import dataclasses
import functools

import jax
from carafe_kernels.normalizers import normalize

from carafe_jax.differentiation import contract
from carafe_jax.plan import Normalizer, Plan, Slot, kernels

type _Operands = tuple[jax.Array, ...]


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
