import jax
import numpy as np
import pytest

from experiments.engine.parallel import AXIS, split
from experiments.engine.tables import step_time
from experiments.engine.tables.step_time import inference_seconds, training_seconds


@pytest.fixture
def clock(monkeypatch):
    """Sets the measured time of each step to a value of a list."""

    def set_to(seconds):
        ends = np.cumsum([time for second in seconds for time in (0.5, second)])
        monkeypatch.setattr(step_time.time, "perf_counter", iter(ends.tolist()).__next__)

    return set_to


def step(state, batch, key, number):
    del key, number
    total = state["sum"] + jax.lax.psum(batch["x"].sum(), AXIS)
    return {"sum": total}, {"loss": total}


def test_seconds_are_the_median_of_five_steps_after_the_first(clock):
    state = {"sum": np.float32(0)}
    batch = split({"x": np.arange(8, dtype=np.float32)})
    seconds = [100.0, 5.0, 1.0, 4.0, 2.0, 3.0]
    clock(seconds)
    assert training_seconds(state, step, batch) == pytest.approx(3)
    clock(seconds)
    found = inference_seconds(state, lambda state, batch: state["sum"] * batch["x"], batch)
    assert found == pytest.approx(3)


def test_all_results_of_an_inference_are_computed(clock):
    """Every element of every array is needed, on every device."""
    seen = []

    def infer(state, batch):
        jax.debug.callback(lambda x: seen.extend(x.tolist()), batch["x"])
        return {"boxes": state * batch["x"][:, None], "labels": batch["x"] > 1}

    clock([1.0] * 6)
    inference_seconds(np.float32(2), infer, split({"x": np.arange(8, dtype=np.float32)}))
    jax.effects_barrier()
    assert sorted(seen) == sorted(list(range(8)) * 6)


def test_a_step_continues_from_the_state_of_the_previous_step(clock):
    seen = []

    def counted(state, batch, key, number):
        def note(total, device):
            if device == 0:
                seen.append(total.item())

        jax.debug.callback(note, state["sum"], jax.lax.axis_index(AXIS))
        return step(state, batch, key, number)

    clock([1.0] * 6)
    training_seconds({"sum": np.float32(0)}, counted, split({"x": np.ones(4, np.float32)}))
    jax.effects_barrier()
    assert sorted(seen) == [0, 4, 8, 12, 16, 20]
