"""What a run carries from step to step, guarded against steps that are not finite.

Everything here is decided on the devices, alike on all of them, so that nothing waits for the host:
after a step too many that was not finite, every further one leaves the state as it is, until the
host has noticed.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.engine.parallel import AXIS

Carry = dict[str, Any]
TaskStep = Callable[[Any, Any, jax.Array, jax.Array], tuple[Any, dict[str, jax.Array]]]

# The field of a batch that counts, for each example, the records that could not be read for it.
UNREADABLE = "unreadable"


def first_carry(state: Any, seed: int) -> Carry:
    """The carry before the first step.

    Args:
        state: of the task, a pytree of arrays.
        seed: of all randomness in steps.
    """
    return {
        "state": state,
        "key": jax.random.key_data(jax.random.key(seed)),
        "number": jnp.zeros((), jnp.int32),
        "skipped": jnp.zeros((), jnp.int32),
        "unreadable": jnp.zeros((), jnp.int32),
    }


def guarded(
    step: TaskStep, max_skipped: int
) -> Callable[[Carry, Any], tuple[Carry, dict[str, jax.Array]]]:
    """Runs a task's step on a carry, and keeps the state from before a step that is not finite.

    Args:
        step: ``step(state, batch, key, number)`` under the mapped axis ``AXIS``; ``key`` differs by
            device and step, ``number`` counts from 0 those that were not skipped. It returns the
            next state and metrics, among them ``loss``. Finite metrics must mean a finite state.
            The loss alone does not, for it is from before the update; with the norm of the
            gradient they do, and that compiles in a fraction of the time that a look at every
            array takes.
        max_skipped: so many steps may be skipped in a run. After one more the state stands still.

    Returns:
        ``step(carry, batch)``; to the metrics it adds ``skipped`` and ``unreadable``, the numbers
        so far. ``batch`` may have the field :data:`UNREADABLE`, an int32 ``[b]``.
    """

    def run(carry: Carry, batch: Any) -> tuple[Carry, dict[str, jax.Array]]:
        state, number, skipped = carry["state"], carry["number"], carry["skipped"]
        key = jax.random.fold_in(jax.random.wrap_key_data(carry["key"]), number)
        key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
        unreadable = carry["unreadable"]
        if isinstance(batch, dict) and UNREADABLE in batch:
            batch = dict(batch)
            unreadable = unreadable + jax.lax.psum(batch.pop(UNREADABLE).sum(), AXIS)
        new_state, metrics = step(state, batch, key, number)
        finite = _all_finite(metrics)
        halted = skipped > max_skipped
        accepted = finite & ~halted
        skipped = skipped + (~finite & ~halted)
        new_carry = {
            "state": jax.tree.map(lambda new, old: jnp.where(accepted, new, old), new_state, state),
            "key": carry["key"],
            "number": number + accepted,  # what is skipped counts for no schedule
            "skipped": skipped,
            "unreadable": unreadable,
        }
        return new_carry, {**metrics, "skipped": skipped, "unreadable": unreadable}

    return run


def _all_finite(metrics: dict[str, jax.Array]) -> jax.Array:
    return jnp.stack([jnp.isfinite(value) for value in metrics.values()]).all()
