"""Evaluation: sums over all records, each counted once, on however many devices and processes."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

import grain
import jax

from experiments.engine.input import CORRUPT, Input
from experiments.engine.parallel import AXIS, data_parallel, replicate
from experiments.engine.step import UNREADABLE

# The name of the sum by which all others are divided.
COUNT = "count"


class UnreadableEvaluationError(RuntimeError):
    """More records of an evaluation could not be read than is allowed."""


class Evaluator:
    """Means over a data set, compiled once.

    Args:
        sums: from a state and one device's share of a batch to sums over its examples, ``count``
            among them. Examples that only fill up a batch have to weigh nothing.
        dataset: finite batches of this process, as many on every process.
        workers: see :class:`experiments.engine.input.Input`.
        max_unreadable: so many records may be left out of the means; one more is an error.
    """

    def __init__(
        self,
        sums: Callable[[Any, Any], dict[str, jax.Array]],
        dataset: grain.MapDataset,
        workers: int = 0,
        max_unreadable: int = 0,
    ) -> None:
        def total(state: Any, batch: Any) -> dict[str, jax.Array]:
            batch = dict(batch)
            unreadable = batch.pop(UNREADABLE).sum() if UNREADABLE in batch else 0
            return jax.lax.psum({**sums(state, batch), UNREADABLE: unreadable}, AXIS)

        self._step = data_parallel(total)
        self._dataset, self._workers = dataset, workers
        self._max_unreadable = max_unreadable

    def __call__(self, state: Any) -> dict[str, float]:
        """The mean of each sum, and ``unreadable``, the number of records left out, if any.

        Raises:
            UnreadableEvaluationError: that number is too large.
        """
        state = replicate(state)
        totals: dict[str, float] = {}
        left_out: list[int] = []
        with closing(Input(self._dataset, self._workers)) as data:
            for batch, host in data:
                if CORRUPT in host:
                    left_out += host[CORRUPT][host[CORRUPT] >= 0].tolist()
                for name, value in jax.device_get(self._step(state, batch)).items():
                    totals[name] = totals.get(name, 0.0) + float(value)
        count, unreadable = totals.pop(COUNT), totals.pop(UNREADABLE)
        if left_out:
            print(f"an evaluation leaves out records that cannot be read: {left_out}")
        if unreadable > self._max_unreadable:
            raise UnreadableEvaluationError(
                f"{unreadable:.0f} records could not be read in an evaluation, and "
                f"{self._max_unreadable} are allowed; of this process: {left_out}"
            )
        means = {name: total / count for name, total in totals.items()}
        return {**means, UNREADABLE: unreadable} if unreadable else means
