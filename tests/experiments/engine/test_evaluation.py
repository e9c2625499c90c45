import grain
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.records import PaddedRecords, RecordError
from experiments.engine.command_line import run_command
from experiments.engine.config import ConfigError
from experiments.engine.evaluation import (
    Evaluator,
    NonFiniteEvaluationError,
    UnreadableEvaluationError,
    values_of_examples,
    weighted_sum,
)
from experiments.engine.settings import (
    EvaluationConfig,
    Operation,
    TrainingConfig,
    evaluation_in_training,
)

VALUES = np.arange(1.0, 12.0, dtype=np.float32)  # eleven, so that the last batch is incomplete


def dataset(unreadable=()):
    def decode(value):
        if value in unreadable:
            raise RecordError("broken")
        return {"x": np.float32(value)}

    records = PaddedRecords(list(VALUES), decode, 8, {"x": np.float32(0)})
    return grain.MapDataset.source(records).batch(8)


def sums(state, batch):
    weight = batch["weight"]
    return {"mean": weighted_sum(state * batch["x"], weight), "count": weight.sum()}


def test_every_record_counts_once():
    evaluate = Evaluator(sums, dataset())
    assert evaluate(jnp.float32(1)) == {"mean": pytest.approx(VALUES.mean())}
    assert evaluate(jnp.float32(3)) == {"mean": pytest.approx(3 * VALUES.mean())}


def test_values_of_examples_are_in_the_order_of_the_records():
    def values(state, batch):
        x = state * batch["x"]
        return {"x": x, "matrix": x[:, None, None] * jnp.ones((1, 2, 3))}

    records, found = values_of_examples(values, jnp.float32(2), dataset([3.0]), 0, 1)
    expected = [2 * value for value in VALUES if value != 3]
    assert records.tolist() == [0, 1, *range(3, 11)]
    assert found["x"].tolist() == expected
    assert found["x"].dtype == np.float64
    np.testing.assert_array_equal(found["matrix"][:, 1, 2], expected)
    with pytest.raises(UnreadableEvaluationError, match=r"\[2\]"):
        values_of_examples(values, jnp.float32(2), dataset([3.0]))


def test_values_of_examples_may_have_any_name():
    """The name of the file is a parameter of the NumPy function that stores the values."""
    _, found = values_of_examples(lambda state, batch: {"file": batch["x"]}, 0.0, dataset())
    np.testing.assert_array_equal(found["file"], VALUES)


def test_padding_may_be_nan():
    evaluate = Evaluator(lambda state, batch: sums(state / batch["x"], batch), dataset())
    assert evaluate(jnp.float32(2)) == {"mean": pytest.approx(2)}  # the padding gives 2 / 0 * 0


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_without_finite_values_there_is_no_score(value):
    def broken(state, batch):
        found = sums(state, batch)
        return {"right": found["mean"], "loss": found["mean"] + value, "count": found["count"]}

    with pytest.raises(NonFiniteEvaluationError, match=rf"finite metrics, got loss {value}:"):
        Evaluator(broken, dataset())(jnp.float32(1))


def test_records_that_cannot_be_read_are_left_out_and_counted():
    evaluate = Evaluator(sums, dataset(unreadable={3.0, 11.0}), max_unreadable_records=2)
    readable = [value for value in VALUES if value not in (3.0, 11.0)]
    assert evaluate(jnp.float32(1)) == {"mean": pytest.approx(np.mean(readable)), "unreadable": 2}
    with pytest.raises(UnreadableEvaluationError, match=r"2 .*_records allows 1: \[2, 10\]"):
        Evaluator(sums, dataset(unreadable={3.0, 11.0}), max_unreadable_records=1)(jnp.float32(1))


def test_without_readable_records_there_is_no_mean():
    evaluate = Evaluator(sums, dataset(unreadable=VALUES), max_unreadable_records=11)
    with pytest.raises(UnreadableEvaluationError, match=r"no record .*0, 1, .* 10\]"):
        evaluate(jnp.float32(1))


def test_the_command_line_names_unreadable_records_without_a_traceback(monkeypatch, capsys):
    def evaluate():
        Evaluator(sums, dataset(unreadable=VALUES), max_unreadable_records=11)(jnp.float32(1))

    monkeypatch.setattr("sys.argv", ["toy", "evaluate"])
    with pytest.raises(SystemExit) as ended:
        run_command("toy", {"evaluate": evaluate, "train": lambda: None})
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: no record of an evaluation could be read: [0, 1,")
    assert "Traceback" not in said


def test_without_records_there_is_no_evaluation():
    with pytest.raises(ConfigError, match=r"dataset .*batch.* 0"):
        Evaluator(sums, grain.MapDataset.source([]).batch(8))
    padding = PaddedRecords([], dict, 8, {"x": np.float32(0)}, numbers=[])
    only_padding = grain.MapDataset.source([padding[number] for number in range(8)]).batch(8)
    with pytest.raises(ConfigError, match=r"dataset .*record.*none"):
        Evaluator(sums, only_padding)(jnp.float32(1))


def test_evaluation_in_training_uses_batch_size_and_limit_of_the_run():
    training = TrainingConfig(batch_size=12, workers=2)
    expected = EvaluationConfig(batch_size=12, workers=2, max_unreadable_records=3)
    assert evaluation_in_training(training, Operation(max_unreadable_records=3)) == expected


def test_bounds_of_an_evaluation_are_named():
    with pytest.raises(ConfigError, match=r"batch_size.* 0"):
        EvaluationConfig(batch_size=0)
    with pytest.raises(ConfigError, match=r"workers.* -1"):
        EvaluationConfig(workers=-1)
