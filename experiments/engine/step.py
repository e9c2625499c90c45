"""The training step: its gradients, the guard around it, and the state it starts from.

Gradients are gathered over the parts of a batch and over devices. The guard keeps the state from
before a step that is not finite. It decides on the devices, alike on all of them, so that nothing
waits for the host: after one skipped step too many, every further step leaves the state as it is,
until the host has noticed.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from experiments.engine.batch_fields import UNREADABLE
from experiments.engine.parallel import AXIS

# The part of a network's state that serves training alone.
OPTIMIZER = "optimizer"

State = dict[str, Any]
Batch = dict[str, jax.Array]
TaskStep = Callable[[Any, Any, jax.Array, jax.Array], tuple[Any, dict[str, jax.Array]]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Carry:
    """The values that a run carries from step to step, and saves in its checkpoints.

    Attributes:
        state: of the task, a pytree of arrays.
        key: uint32 ``[2]``, data of the random key of the run.
        number: int32 ``[]``, of steps that were not skipped.
        skipped: int32 ``[]``, of steps that were skipped because they were not finite.
        unreadable: int32 ``[]``, of records that could not be read.
    """

    state: Any
    key: jax.Array
    number: jax.Array
    skipped: jax.Array
    unreadable: jax.Array


def first_carry(state: Any, seed: int) -> Carry:
    """The carry before the first step.

    Args:
        state: of the task, a pytree of arrays.
        seed: of all randomness in steps.
    """
    return Carry(
        state=state,
        key=jax.random.key_data(jax.random.key(seed)),
        number=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        unreadable=jnp.zeros((), jnp.int32),
    )


def guarded(
    step: TaskStep, max_skipped: int
) -> Callable[[Carry, Batch], tuple[Carry, dict[str, jax.Array]]]:
    """Runs a task's step on a carry, and keeps the state from before a step that is not finite.

    Args:
        step: ``step(state, batch, key, number)`` under the mapped axis ``AXIS``. ``key`` differs by
            device and step; ``number`` counts the steps that were not skipped, from 0. It returns
            the next state and metrics, among them ``loss``. Finite metrics must mean a finite
            state. The loss alone does not, for it is computed before the update; with the norm of
            the gradient they do. A check of every array would take several times as long to
            compile.
        max_skipped: the largest number of steps that may be skipped in a run. After one more the
            state no longer changes.

    Returns:
        ``step(carry, batch)``, which adds the metrics ``skipped`` and ``unreadable``: how many
        steps were skipped so far, and how many records could not be read. ``batch`` may have the
        field ``unreadable``, int32 ``[b]``, how many records could not be read for each example.
    """

    def run(carry: Carry, batch: Batch) -> tuple[Carry, dict[str, jax.Array]]:
        state, number, skipped = carry.state, carry.number, carry.skipped
        key = jax.random.fold_in(jax.random.wrap_key_data(carry.key), number)
        key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
        unreadable = carry.unreadable
        if UNREADABLE in batch:
            unreadable = unreadable + jax.lax.psum(batch[UNREADABLE].sum(), AXIS)
        new_state, metrics = step(state, batch, key, number)
        finite = _all_finite(metrics)
        halted = skipped > max_skipped
        accepted = finite & ~halted
        skipped = skipped + (~finite & ~halted).astype(skipped.dtype)
        new_carry = Carry(
            state=jax.tree.map(lambda new, old: jnp.where(accepted, new, old), new_state, state),
            key=carry.key,
            number=number + accepted.astype(number.dtype),  # a skipped step counts for no schedule
            skipped=skipped,
            unreadable=unreadable,
        )
        return new_carry, {**metrics, "skipped": skipped, "unreadable": unreadable}

    return run


def _all_finite(metrics: dict[str, jax.Array]) -> jax.Array:
    return jnp.stack([jnp.isfinite(value) for value in metrics.values()]).all()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossSums:
    """Loss and metrics of some examples, as sums, so that those of the parts of a batch add up.

    Attributes:
        loss: ``[]``, summed.
        count: ``[]``, the number of examples, or of pixels, by which the sums over all devices are
            divided. It must not depend on the parameters.
        metrics: name to ``[]``, summed.
        model_state: collections that the model has changed, such as batch statistics.
    """

    loss: jax.Array
    count: jax.Array
    metrics: dict[str, jax.Array]
    model_state: Any


LossFunction = Callable[[Any, Any, Batch, jax.Array], LossSums]


def descend(
    loss_function: LossFunction,
    optimizer: optax.GradientTransformation,
    state: State,
    batch: Batch,
    key: jax.Array,
    accumulation: int = 1,
) -> tuple[State, dict[str, jax.Array]]:
    """One optimiser step of one network on one device's share of a batch, under the axis ``AXIS``.

    Loss and gradient are those of the whole batch over all devices, ``sum(loss) / sum(count)``,
    however it is shared. Parameters and the sums over devices and parts are float32, whatever the
    model computes in. Batch statistics that were not gathered over the axis are averaged over it.

    Args:
        loss_function: of parameters, model state, batch and random key.
        optimizer: applied to the gradient.
        state: of the network; see :func:`initial_state`.
        batch: this device's share.
        key: for the loss function.
        accumulation: number of parts of equal size through which a device goes one after the
            other, to need the memory of one. BatchNorm sees each part by itself.

    Returns:
        The next state, and ``loss``, ``gradient_norm`` and the metrics.
    """

    def scalar_loss(params: Any, *rest: Any) -> tuple[jax.Array, LossSums]:
        sums = loss_function(params, *rest)
        return sums.loss, sums

    def totals_of(params: Any, model_state: Any, examples: Batch, key: jax.Array) -> Any:
        (_, sums), gradients = jax.value_and_grad(scalar_loss, has_aux=True)(
            params, model_state, examples, key
        )
        return sums.model_state, (gradients, sums.loss, sums.count, sums.metrics)

    params, model_state = state["params"], state["model_state"]
    if accumulation == 1:
        model_state, totals = totals_of(params, model_state, batch, key)
    else:
        # [b, ...] -> [accumulation, b / accumulation, ...]
        parts = jax.tree.map(lambda x: x.reshape(accumulation, -1, *x.shape[1:]), batch)
        keys = jax.random.split(key, accumulation)

        def add_part(carry: Any, part: Any) -> Any:
            model_state, totals = carry
            model_state, found = totals_of(params, model_state, *part)
            return (model_state, jax.tree.map(jnp.add, totals, found)), None

        first = jax.tree.map(lambda x: x[0], (parts, keys))
        _, shapes = jax.eval_shape(totals_of, params, model_state, *first)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (model_state, totals), _ = jax.lax.scan(add_part, (model_state, zeros), (parts, keys))
    gradients, loss, count, metrics = jax.lax.psum(totals, AXIS)
    gradients, loss, metrics = jax.tree.map(lambda x: x / count, (gradients, loss, metrics))
    updates, optimizer_state = optimizer.update(gradients, state[OPTIMIZER], params)
    new_state = {
        "params": optax.apply_updates(params, updates),
        "model_state": jax.lax.pmean(model_state, AXIS),
        OPTIMIZER: optimizer_state,
    }
    return new_state, {"loss": loss, "gradient_norm": optax.tree.norm(gradients), **metrics}


def supervised_step(
    loss_function: LossFunction,
    optimizer: optax.GradientTransformation,
    rate: optax.Schedule,
    accumulation: int = 1,
) -> TaskStep:
    """The training step of a task with one network and one loss.

    Args:
        loss_function: of parameters, model state, batch and random key.
        optimizer: applied to the gradient.
        rate: the learning rate of ``optimizer``, reported as ``learning_rate``.
        accumulation: number of parts of equal size through which a device goes one after the
            other; see :func:`descend`.

    Returns:
        ``step(state, batch, key, number)``, where ``number`` counts from 0; it returns the next
        state and ``loss``, ``gradient_norm``, ``learning_rate`` and the metrics.
    """

    def step(
        state: State, batch: Batch, key: jax.Array, number: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        state, found = descend(loss_function, optimizer, state, batch, key, accumulation)
        return state, {**found, "learning_rate": rate(number)}

    return step


def initial_state(params: Any, model_state: Any, optimizer: optax.GradientTransformation) -> State:
    """The state of one network before its first step."""
    return {"params": params, "model_state": model_state, OPTIMIZER: optimizer.init(params)}


def draw_variables(module: nn.Module, key: jax.Array, *inputs: Any, **options: Any) -> Any:
    """Draws the variables of a network on the CPU, so that they are the same for all accelerators.

    Args:
        module: a Linen module.
        key: random key; see :func:`initial_key`.
        inputs: shapes and dtypes of the module's inputs, as ``jax.ShapeDtypeStruct``.
        options: of ``module.lazy_init``, such as ``method``.

    Returns:
        All collections, ``params`` among them.
    """
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return jax.jit(lambda drawn: module.lazy_init(drawn, *inputs, **options))(key)


def initial_key(seed: int) -> jax.Array:
    """A key of the ``rbg`` generator, which compiles in a fifth of the time of the default one."""
    return jax.random.key(seed, impl="rbg")
