"""Measures the time of a task's steps on random data."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.engine.parallel import AXIS, data_parallel, replicate
from experiments.engine.step import TaskStep, first_carry, guarded

_ROUNDS = 5


def training_seconds(state: Any, step: TaskStep, batch: Any) -> float:
    """Returns the median seconds of five training steps after a first one, which compiles.

    Args:
        state: state of the task.
        step: training step of the task.
        batch: batch from :func:`experiments.engine.parallel.split`.
    """
    carry = jax.device_get(first_carry(state, 0))
    stepped = data_parallel(guarded(step, 0), donate_state=True)
    times = []
    for _ in range(1 + _ROUNDS):
        began = time.perf_counter()
        carry, _ = jax.block_until_ready(stepped(carry, batch))
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:]))


def inference_seconds(state: Any, infer: Callable[[Any, Any], Any], batch: Any) -> float:
    """Returns the median seconds of five inferences; a first one, which compiles, is not timed.

    Args:
        state: state of the task.
        infer: function from the state and one device's share of the batch to a pytree of arrays.
        batch: batch from :func:`experiments.engine.parallel.split`.
    """

    def total(state: Any, batch: Any) -> Any:
        # The sum depends on all values, so that none is left uncomputed, and is equal on all
        # devices.
        return jax.lax.psum(jax.tree.map(lambda leaf: leaf.sum(), infer(state, batch)), AXIS)

    inferred, state = data_parallel(total), replicate(state)
    times = []
    for _ in range(1 + _ROUNDS):
        began = time.perf_counter()
        jax.block_until_ready(inferred(state, batch))
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:]))
