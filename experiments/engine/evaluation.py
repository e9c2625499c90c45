"""Evaluation: means over a dataset, in which each record counts once, on any number of devices."""

import io
import json
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int64, Num

from experiments.engine.batch_fields import RECORD, UNREADABLE
from experiments.engine.config import ConfigError, check
from experiments.engine.distributed import gather_bytes, is_primary
from experiments.engine.errors import UserError
from experiments.engine.input import Input, unreadable_records
from experiments.engine.parallel import AXIS, data_parallel, join, replicate

# The name of the sum by which all other sums are divided.
COUNT = "count"

_VALUE = "value/"


class UnreadableEvaluationError(UserError, RuntimeError):
    """An evaluation could not read more records than is allowed, or could not read any."""


class NonFiniteEvaluationError(UserError, FloatingPointError):
    """A network gives NaN or infinite values, so that its metrics are undefined."""


class Evaluator:
    """Computes means over a dataset; compiled once.

    Args:
        sums: function from a state and one device's share of a batch to sums over the examples of
            the share, with ``count`` among them. Padding examples must not be counted.
        dataset: finite batches of this process, as in :class:`experiments.engine.input.Input`; the
            number of batches is the same on every process.
        workers: number of processes that prepare batches; 0 prepares them in threads.
        max_unreadable_records: the largest allowed number of unreadable records, which are left out
            of the means.

    Raises:
        ConfigError: ``dataset`` has no batches.
    """

    def __init__(
        self,
        sums: Callable[[Any, Any], dict[str, jax.Array]],
        dataset: grain.MapDataset,
        workers: int = 0,
        max_unreadable_records: int = 0,
    ) -> None:
        def total(state: Any, batch: Any) -> dict[str, jax.Array]:
            return jax.lax.psum(sums(state, batch), AXIS)

        check_not_empty(dataset)
        self._step = data_parallel(total)
        self._dataset, self._workers = dataset, workers
        self._max_unreadable_records = max_unreadable_records

    def __call__(self, state: Any) -> dict[str, float]:
        """Returns the mean of each sum and, unless it is 0, the number of ``unreadable`` records.

        Raises:
            UnreadableEvaluationError: too many records cannot be read, or no record can.
            ConfigError: every example has weight 0.
            NonFiniteEvaluationError: a mean is NaN or infinite.
        """
        state = replicate(state)
        totals: dict[str, float] = {}
        unreadable: list[int] = []
        with closing(Input(self._dataset, self._workers)) as data:
            for batch, host in data:
                unreadable += unreadable_records(host)
                for name, value in jax.device_get(self._step(state, batch)).items():
                    totals[name] = totals.get(name, 0.0) + float(value)
        count = totals.pop(COUNT)
        left_out = check_unreadable(unreadable, count > 0, self._max_unreadable_records)
        means = {name: total / count for name, total in totals.items()}
        if bad := {name: mean for name, mean in means.items() if not math.isfinite(mean)}:
            # The other means are meaningless too: accuracy counts NaN as a class.
            found = ", ".join(f"{name} {mean}" for name, mean in bad.items())
            raise NonFiniteEvaluationError(
                f"an evaluation must give finite metrics, got {found}: the parameters are broken, "
                "or the network overflows"
            )
        return {**means, UNREADABLE: float(left_out)} if left_out else means


def values_of_examples(
    values: Callable[[Any, Any], dict[str, jax.Array]],
    state: Any,
    dataset: grain.MapDataset,
    workers: int = 0,
    max_unreadable_records: int = 0,
) -> tuple[Int64[np.ndarray, " examples"], dict[str, np.ndarray]]:
    """Computes values of each example of a dataset. Every process must call this.

    Args:
        values: function from a state and one device's share of a batch to values ``[b, ...]``.
        state: state on which the values depend.
        dataset: batches as in :class:`Evaluator`.
        workers: number of processes that prepare batches; 0 prepares them in threads.
        max_unreadable_records: the largest allowed number of unreadable records.

    Returns:
        The number of the record of each example, in ascending order, and the values of the examples
        by name, float64 ``[N, ...]``, the same on every process. Padding and unreadable records are
        left out.

    Raises:
        UnreadableEvaluationError: too many records cannot be read, or no record can.
        ConfigError: ``dataset`` has no batches, or every example has weight 0.
    """

    def measured(state: Any, batch: Any) -> tuple[dict[str, jax.Array], jax.Array]:
        return values(state, batch), batch["weight"]

    check_not_empty(dataset)
    step, state = data_parallel(measured, per_example=True), replicate(state)
    parts: list[dict[str, np.ndarray]] = []
    unreadable: list[int] = []
    with closing(Input(dataset, workers)) as data:
        for batch, host in data:
            unreadable += unreadable_records(host)
            found, weight = join(step(state, batch))
            counted = weight > 0
            part = {name: array[counted].astype(np.float64) for name, array in found.items()}
            parts.append({RECORD: host[RECORD][counted], **part})
    check_unreadable(unreadable, any(len(part[RECORD]) for part in parts), max_unreadable_records)
    buffer = io.BytesIO()
    # Without the prefix, a value named "file" would be another parameter of savez.
    own: dict[str, Any] = {f"{_VALUE}{name}": array for name, array in _joined(parts).items()}
    np.savez(buffer, **own)
    gathered = _joined([_arrays(part) for part in gather_bytes(buffer.getvalue())])
    order = np.argsort(gathered[RECORD])
    examples = {name: array[order] for name, array in gathered.items()}
    return examples.pop(RECORD), examples


def _joined(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _arrays(npz: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(npz), allow_pickle=False) as file:
        return {name.removeprefix(_VALUE): array for name, array in file.items()}


def weighted_sum(
    values: Num[Array, " batch"] | Bool[Array, " batch"], weight: Float[Array, " batch"]
) -> Float[Array, ""]:
    """Computes the weighted sum of a batch; values of weight 0 are ignored, even if they are NaN.

    Args:
        values: values of the examples, ``[B]``.
        weight: weights of the examples, ``[B]``; 0 for padding.
    """
    return (jnp.where(weight > 0, values.astype(weight.dtype), 0) * weight).sum()


def check_not_empty(dataset: grain.MapDataset) -> None:
    """Raises :class:`ConfigError` if there are no batches to evaluate on."""
    check(len(dataset) > 0, "dataset", "of at least one batch to evaluate on", len(dataset))


def check_unreadable(
    unreadable: Sequence[int], evaluated: bool, max_unreadable_records: int
) -> int:
    """Prints the records that an evaluation could not read; every process must call it at the end.

    Args:
        unreadable: numbers of the records that this process could not read.
        evaluated: whether this process evaluated any record.
        max_unreadable_records: the largest allowed number of unreadable records.

    Returns:
        The number of unreadable records of all processes together.

    Raises:
        UnreadableEvaluationError: there are more than allowed, or no record could be read.
        ConfigError: there was no record.
    """
    payload = json.dumps({"unreadable": list(unreadable), "evaluated": evaluated}).encode()
    parts = [json.loads(part) for part in gather_bytes(payload)]
    numbers = sorted(number for part in parts for number in part["unreadable"])
    if numbers and is_primary():
        print(f"an evaluation leaves out records that cannot be read: {numbers}")
    if len(numbers) > max_unreadable_records:
        raise UnreadableEvaluationError(
            f"{len(numbers)} records could not be read in an evaluation, and "
            f"max_unreadable_records allows {max_unreadable_records}: {numbers}"
        )
    if not any(part["evaluated"] for part in parts):
        if numbers:
            raise UnreadableEvaluationError(f"no record of an evaluation could be read: {numbers}")
        raise ConfigError("dataset must have at least one record to evaluate on, got none")
    return len(numbers)
