"""Training steps: gradients of a loss, gathered over parts of a batch and over devices."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.engine.guard import TaskStep
from experiments.engine.parallel import AXIS

State = dict[str, Any]
Batch = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sums:
    """What a loss function finds in some examples; sums, so that parts of a batch add up.

    Attributes:
        loss: ``[]``, summed.
        count: ``[]``, by which loss and metrics are divided in the end: the number of examples,
            or of pixels. It must not depend on the parameters.
        metrics: name to ``[]``, summed.
        model_state: collections that the model has changed, such as batch statistics.
    """

    loss: jax.Array
    count: jax.Array
    metrics: dict[str, jax.Array]
    model_state: Any


LossFunction = Callable[[Any, Any, Batch, jax.Array], Sums]


def initial_state(params: Any, model_state: Any, optimizer: optax.GradientTransformation) -> State:
    """The state of one network before its first step."""
    return {"params": params, "model_state": model_state, "optimizer": optimizer.init(params)}


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

    def scalar_loss(params: Any, *rest: Any) -> tuple[jax.Array, Sums]:
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
    updates, optimizer_state = optimizer.update(gradients, state["optimizer"], params)
    new_state = {
        "params": optax.apply_updates(params, updates),
        "model_state": jax.lax.pmean(model_state, AXIS),
        "optimizer": optimizer_state,
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
        loss_function: see :func:`descend`, as for ``optimizer`` and ``accumulation``.
        optimizer: likewise.
        rate: its learning rate, reported as ``learning_rate``.
        accumulation: likewise.

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
