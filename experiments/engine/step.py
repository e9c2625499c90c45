"""The training step: its gradients, its guard against non-finite values, and its initial state.

Gradients are summed over the parts of a batch and over devices. The guard undoes a step that is not
finite. All devices decide this in the same way, so that nothing waits for the host: once too many
steps have been skipped, every further step leaves the state unchanged until the host notices.
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

# The key of the part of a network's state that only training needs.
OPTIMIZER = "optimizer"

State = dict[str, Any]
Batch = dict[str, jax.Array]
TaskStep = Callable[[Any, Any, jax.Array, jax.Array], tuple[Any, dict[str, jax.Array]]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Carry:
    """The values that a run passes from step to step, and saves in its checkpoints.

    Attributes:
        state: state of the task, a pytree of arrays.
        key: data of the random key of the run, uint32 ``[2]``.
        number: number of steps that were not skipped, int32 ``[]``.
        skipped: number of steps that were skipped because they were not finite, int32 ``[]``.
        unreadable: number of records that could not be read, int32 ``[]``.
    """

    state: Any
    key: jax.Array
    number: jax.Array
    skipped: jax.Array
    unreadable: jax.Array


def first_carry(state: Any, seed: int) -> Carry:
    """Returns the carry before the first step.

    Args:
        state: initial state of the task, a pytree of arrays.
        seed: seed of all randomness in steps.
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
    """Wraps a task's step in a function on carries, which undoes steps that are not finite.

    Args:
        step: ``step(state, batch, key, number)`` under the mapped axis ``AXIS``. ``key`` differs by
            device and step; ``number`` counts the steps that were not skipped, from 0. It returns
            the next state and metrics, with ``loss`` among them. If all metrics are finite, the
            state must be finite too. The loss is not enough, because it is computed before the
            update; loss and gradient norm are enough. Checking every array would take several times
            as long to compile.
        max_skipped: the largest allowed number of skipped steps in a run. After one more the state
            no longer changes.

    Returns:
        ``step(carry, batch)``, which adds the metrics ``skipped``, the number of steps skipped so
        far, and ``unreadable``, the number of records that could not be read. ``batch`` may have
        the field ``unreadable``, int32 ``[b]``, the number of unreadable records for each example.
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
            # Schedules do not count skipped steps.
            number=number + accepted.astype(number.dtype),
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
    """Sums of loss and metrics over examples; the sums of the parts of a batch can be added.

    Attributes:
        loss: sum of the loss, ``[]``.
        count: number of examples, or of pixels, ``[]``; the sums over all devices are divided by
            its sum, unless that is 0. It must not depend on the parameters.
        metrics: sum of each metric, ``[]``, by name.
        model_state: collections that the model has changed, such as batch statistics.
    """

    loss: jax.Array
    count: jax.Array
    metrics: dict[str, jax.Array]
    model_state: Any


LossFunction = Callable[[Any, Any, Batch, jax.Array], LossSums]


def gradient_step(
    loss_function: LossFunction,
    optimizer: optax.GradientTransformation,
    state: State,
    batch: Batch,
    key: jax.Array,
    accumulation: int = 1,
) -> tuple[State, dict[str, jax.Array]]:
    """Does one optimiser step of one network, with one device's share of a batch.

    Call it under the mapped axis ``AXIS``.

    Loss and gradient are those of the whole batch over all devices, ``sum(loss) / sum(count)``,
    no matter how the batch is divided; a batch whose count is 0 has a loss of 0. Parameters, and
    the sums over devices and parts, are float32 for every dtype of the model. Batch statistics are
    averaged over the axis, unless the model already reduced them over it.

    Args:
        loss_function: function of parameters, model state, batch and random key.
        optimizer: optimiser that is applied to the gradient.
        state: state of the network; see :func:`initial_state`.
        batch: this device's share of the batch.
        key: random key for the loss function.
        accumulation: number of equal parts of the share, which are processed in turn, so that only
            one part needs memory at a time. BatchNorm normalises each part separately.

    Returns:
        The next state, and the metrics with ``loss`` and ``gradient_norm``.
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
    # A batch may have nothing to learn from, such as images without a labelled pixel.
    divisor = jnp.where(count == 0, jnp.ones_like(count), count)
    gradients, loss, metrics = jax.tree.map(lambda x: x / divisor, (gradients, loss, metrics))
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
    """Returns the training step of a task with one network and one loss.

    Args:
        loss_function: function of parameters, model state, batch and random key.
        optimizer: optimiser that is applied to the gradient.
        rate: learning rate of ``optimizer``, reported as ``learning_rate``.
        accumulation: number of equal parts into which each device divides its share of a batch;
            see :func:`gradient_step`.

    Returns:
        ``step(state, batch, key, number)``, where ``number`` counts from 0; it returns the next
        state, and the metrics with ``loss``, ``gradient_norm`` and ``learning_rate``.
    """

    def step(
        state: State, batch: Batch, key: jax.Array, number: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        state, found = gradient_step(loss_function, optimizer, state, batch, key, accumulation)
        return state, {**found, "learning_rate": rate(number)}

    return step


def initial_state(params: Any, model_state: Any, optimizer: optax.GradientTransformation) -> State:
    """Returns the state of one network before its first step."""
    return {"params": params, "model_state": model_state, OPTIMIZER: optimizer.init(params)}


def network_state(state: State) -> State:
    """Returns the part of the state of one network that evaluation needs.

    Args:
        state: state of the network; see :func:`initial_state`.
    """
    return {name: state[name] for name in ("params", "model_state")}


def draw_variables(module: nn.Module, key: jax.Array, *inputs: Any, **options: Any) -> Any:
    """Draws the variables of a network on the CPU, so that they do not depend on the accelerator.

    Args:
        module: Linen module.
        key: random key; see :func:`initial_key`.
        inputs: shapes and dtypes of the module's inputs, as ``jax.ShapeDtypeStruct``.
        options: keyword arguments of ``module.lazy_init``, such as ``method``.

    Returns:
        All collections, including ``params``.
    """
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return jax.jit(lambda drawn: module.lazy_init(drawn, *inputs, **options))(key)


def initial_key(seed: int) -> jax.Array:
    """Returns a key of the ``rbg`` generator, which compiles in a fifth of the default's time."""
    return jax.random.key(seed, impl="rbg")
