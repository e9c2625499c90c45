import dataclasses

import grain
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine.checkpoints import CheckpointError, Checkpoints, restore_state
from experiments.engine.config import ConfigError
from experiments.engine.loop import NonFiniteLossError, Schedule, train
from experiments.engine.metrics import read_metrics


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 0


def batches(seed=0):
    dataset = grain.MapDataset.source(np.arange(100.0)).seed(seed).shuffle().repeat().batch(4)
    return iter(dataset.to_iter_dataset())


def step(state, batch):
    state = {"sum": state["sum"] + batch.mean()}
    return state, {"loss": state["sum"]}


START = {"sum": jnp.zeros(())}


def run(folder, steps, config=None, step=step):
    return train(folder, config or Config(), Schedule(steps, 5), START, step, batches())


def test_a_stopped_run_goes_on_with_the_same_numbers(tmp_path):
    whole = run(tmp_path / "whole", 23)
    run(tmp_path / "parts", 12)
    parts = run(tmp_path / "parts", 23)
    assert float(parts["sum"]) == float(whole["sum"])
    first, second = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts"))
    assert [line for line in second if line["step"] != 12] == first


def test_a_finished_run_is_not_trained_further(tmp_path):
    first = run(tmp_path, 10)

    def forbidden(state, batch):
        raise AssertionError("trained again")

    again = run(tmp_path, 10, step=forbidden)
    assert float(again["sum"]) == float(first["sum"])


def test_another_config_is_refused_by_field(tmp_path):
    run(tmp_path, 5)
    with pytest.raises(ConfigError, match="seed: 0 -> 1"):
        run(tmp_path, 5, Config(seed=1))


def test_a_non_finite_loss_stops_the_run(tmp_path):
    def diverge(state, batch):
        return state, {"loss": state["sum"] / 0}

    with pytest.raises(NonFiniteLossError, match="nan at step 1"):
        run(tmp_path, 5, step=diverge)


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    def diverge(state, batch):
        return {"sum": state["sum"] / 0}, {"loss": jnp.ones(())}

    with pytest.raises(NonFiniteLossError, match="not finite at step 5"):
        run(tmp_path, 9, step=diverge)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        restore_state(tmp_path / "checkpoints", START)


@pytest.mark.parametrize("which", ["*", "d/*", "_METADATA", "manifest.ocdbt"])
def test_a_truncated_checkpoint_is_reported(tmp_path, which):
    run(tmp_path, 5)
    files = [p for p in (tmp_path / "checkpoints/5/state").rglob(which) if p.is_file()]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"checkpoints/5 is damaged"):
        restore_state(tmp_path / "checkpoints", START)
    with pytest.raises(CheckpointError, match=r"checkpoints/5 is damaged: "):
        Checkpoints(tmp_path / "checkpoints").restore(START, batches())


@pytest.mark.parametrize(
    "other", [{"sum": jnp.zeros(3)}, {"product": jnp.zeros(())}, {**START, "more": jnp.zeros(2)}]
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path, other):
    run(tmp_path, 5)
    with pytest.raises(CheckpointError, match="of another model"):
        restore_state(tmp_path / "checkpoints", other)


def test_no_checkpoint_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        restore_state(tmp_path, START)
