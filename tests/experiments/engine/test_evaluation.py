import grain
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.records import CorruptRecordError, PaddedRecords
from experiments.engine.evaluation import Evaluator, UnreadableEvaluationError

VALUES = np.arange(1.0, 12.0, dtype=np.float32)  # eleven: an uneven last batch


def dataset(unreadable=()):
    def decode(value):
        if value in unreadable:
            raise CorruptRecordError("broken")
        return {"x": np.float32(value)}

    records = PaddedRecords(list(VALUES), decode, 8, {"x": np.float32(0)})
    return grain.MapDataset.source(records).batch(8)


def sums(state, batch):
    return {"mean": (state * batch["x"] * batch["weight"]).sum(), "count": batch["weight"].sum()}


def test_every_record_counts_once():
    evaluate = Evaluator(sums, dataset())
    assert evaluate(jnp.float32(1)) == {"mean": pytest.approx(VALUES.mean())}
    assert evaluate(jnp.float32(3)) == {"mean": pytest.approx(3 * VALUES.mean())}


def test_records_that_cannot_be_read_are_left_out_and_counted():
    evaluate = Evaluator(sums, dataset(unreadable={3.0, 11.0}), max_unreadable=2)
    readable = [value for value in VALUES if value not in (3.0, 11.0)]
    assert evaluate(jnp.float32(1)) == {"mean": pytest.approx(np.mean(readable)), "unreadable": 2}
    with pytest.raises(UnreadableEvaluationError, match=r"2 records could not be read.*and 1 are"):
        Evaluator(sums, dataset(unreadable={3.0, 11.0}), max_unreadable=1)(jnp.float32(1))
