"""How long the steps of a task take, on random data."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.engine.parallel import AXIS, data_parallel, replicate
from experiments.engine.step import TaskStep, first_carry, guarded

_ROUNDS = 5


def training_seconds(state: Any, step: TaskStep, batch: Any) -> float:
    """Median seconds of five training steps after the first, which compiles.

    Args:
        state: of the task.
        step: of the task.
        batch: that :func:`experiments.engine.parallel.split` has spread over the devices.
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
    """Median seconds of five inferences after the first, which compiles.

    Args:
        state: of the task.
        infer: from the state and a device's share of the batch to a pytree of arrays.
        batch: that :func:`experiments.engine.parallel.split` has spread over the devices.
    """

    def total(state: Any, batch: Any) -> Any:
        # A sum leaves nothing out that would have to be computed, and is the same on all devices.
        return jax.lax.psum(jax.tree.map(lambda leaf: leaf.sum(), infer(state, batch)), AXIS)

    inferred, state = data_parallel(total), replicate(state)
    times = []
    for _ in range(1 + _ROUNDS):
        began = time.perf_counter()
        jax.block_until_ready(inferred(state, batch))
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:]))
