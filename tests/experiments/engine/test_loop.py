import contextlib
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments.engine import config as configs
from experiments.engine.checkpoints import (
    CheckpointError,
    Checkpoints,
    restore_state,
    steps_in,
)
from experiments.engine.claim import is_finished
from experiments.engine.config import ConfigError
from experiments.engine.errors import Interrupted
from experiments.engine.evaluation import NonFiniteEvaluationError
from experiments.engine.interruption import Interruption
from experiments.engine.loop import NonFiniteLossError, UnreadableRecordsError
from experiments.engine.monitoring.logs import read_log
from experiments.engine.step import first_carry
from tests.experiments.engine import toy
from tests.experiments.engine.toy import Config, poisoned_at, run


def lines(folder, name="metrics.jsonl"):
    return read_log(folder / name)


def carry():
    return first_carry(toy.START, 0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder, 23)


@pytest.fixture
def copied(whole, tmp_path):
    return shutil.copytree(whole[0], tmp_path / "run")


def test_a_run_is_marked_finished_only_while_its_last_state_exists(tmp_path):
    finished = []
    arguments = {"evaluate": lambda state: finished.append(is_finished(tmp_path)) or {}}
    run(tmp_path, 4, evaluate_every=2, checkpoint_every=2, **arguments)
    assert (finished, is_finished(tmp_path)) == ([False, False], True)
    (tmp_path / "checkpoints/4/state/_METADATA").write_text("{")
    run(tmp_path, 4, evaluate_every=2, checkpoint_every=2, **arguments)
    assert (finished, is_finished(tmp_path)) == ([False] * 3, True)


def test_a_stopped_run_continues_with_the_same_numbers(whole, tmp_path):
    folder, state = whole
    run(tmp_path, 12)
    parts = run(tmp_path, 23)
    assert float(parts["sum"]) == float(state["sum"])
    assert lines(tmp_path) == lines(folder)
    assert lines(tmp_path, "timing.jsonl")[-1].keys() == {
        "step",
        "steps_per_second",
        "images_per_second",
        "data_wait",
    }


def test_a_finished_run_is_not_trained_further_and_says_so(whole, copied, capsys):
    def forbidden(state, batch, key, number):
        raise AssertionError("trained again")

    again = run(copied, 23, step=forbidden)
    assert float(again["sum"]) == float(whole[1]["sum"])
    assert "all 23 steps" in capsys.readouterr().out


def test_the_name_of_a_folder_is_not_read_as_markup(tmp_path, capsys):
    run(tmp_path / "[bold]", 2)
    assert "[bold]: step 2/2" in capsys.readouterr().out


def test_the_step_is_compiled_once(tmp_path):
    traced = []

    def step(*arguments):
        traced.append(1)
        return toy.step(*arguments)

    run(tmp_path, 3, step=step)
    assert len(traced) == 1


def test_another_config_is_refused_by_field(copied):
    training = dataclasses.replace(Config().training, seed=1)
    with pytest.raises(ConfigError, match=r"training\.seed: 0 -> 1"):
        run(copied, 23, config=Config(training=training))


def test_the_operation_of_a_run_may_change_and_each_start_is_logged(copied):
    run(copied, 25, checkpoint_every=2)
    assert steps_in(copied / "checkpoints") == [24, 25]
    environment = lines(copied, "environment.jsonl")
    assert [entry["operation"]["checkpoint_every"] for entry in environment] == [5, 2]
    assert [entry["step"] for entry in environment] == [0, 23]
    assert environment[0]["versions"]["jax"]
    assert len(environment[0]["devices"]) == 4


def test_a_batch_that_the_devices_cannot_share_is_refused_before_anything_is_written(tmp_path):
    training = dataclasses.replace(Config().training, batch_size=6)
    with pytest.raises(ConfigError, match=r"batch_size .* 6; .*\[4, 8\]"):
        run(tmp_path / "run", 5, config=Config(training=training))
    assert not (tmp_path / "run").exists()


def test_a_non_finite_loss_stops_the_run_and_saves_state_and_records(tmp_path):
    with pytest.raises(NonFiniteLossError, match=r"not finite: loss nan at step 1"):
        run(tmp_path, 5, step=lambda state, *_: (state, {"loss": state["sum"] / 0}))


def test_a_state_that_is_not_finite_stops_the_run_with_the_state_before_it(whole, tmp_path):
    with pytest.raises(NonFiniteLossError, match=r"not finite: gradient_norm nan at step 7"):
        run(tmp_path, 23, step=poisoned_at(7))
    failed = json.loads((tmp_path / "failure-7/batch-0.json").read_text())
    expected = toy.batches()[6]["record"].tolist()
    assert failed["records"] == expected
    assert failed["step"] == 7
    assert steps_in(tmp_path / "checkpoints") == [5]
    before = [line["loss"] for line in lines(whole[0])][5]
    kept = restore_failed_state(tmp_path / "failure-7/state")
    assert kept["sum"] == np.float32(before)


def restore_failed_state(path):
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path, toy.START)


def test_steps_may_be_skipped_up_to_a_limit(tmp_path):
    state = run(tmp_path, 9, step=poisoned_at(4), max_skipped_steps=1)
    assert np.isfinite(state["sum"])
    assert [line["skipped"] for line in lines(tmp_path)] == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    (incident,) = lines(tmp_path, "incidents.jsonl")
    assert incident["step"] == 4
    assert incident["incident"] == "skipped step"
    assert incident["records"] == toy.batches()[3]["record"].tolist()
    # With a limit below the number of skipped steps, every further step would have no effect.
    with pytest.raises(ConfigError, match=r"max_skipped_steps .* 1 .* 0$"):
        run(tmp_path, 12, step=poisoned_at(4))


def test_unreadable_records_are_counted_named_and_bounded(tmp_path):
    dataset = toy.batches(unreadable=lambda number: number % 10 == 3)
    run(tmp_path / "few", 4, dataset=dataset)
    bad = [[n - 1 for n in dataset[i]["record"].tolist() if n % 10 == 3] for i in range(4)]
    counts = np.cumsum([len(numbers) for numbers in bad]).tolist()
    assert counts[-1] > 2
    assert [line["unreadable"] for line in lines(tmp_path / "few")] == counts
    incidents = lines(tmp_path / "few", "incidents.jsonl")
    expected = [(step, numbers) for step, numbers in enumerate(bad, start=1) if numbers]
    assert [(line["step"], line["records"]) for line in incidents] == expected
    with pytest.raises(UnreadableRecordsError, match=r"records .* max_unreadable_records allows 2"):
        run(tmp_path / "many", 20, dataset=dataset, max_unreadable_records=2)


def test_metrics_can_be_read_by_tensorboard(whole):
    folder, _ = whole
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    points = [(event.step, np.float32(event.value)) for event in events.Scalars("loss")]
    assert points == [(line["step"], np.float32(line["loss"])) for line in lines(folder)]
    assert "images_per_second" in events.Tags()["scalars"]


def test_curves_are_drawn(whole):
    with Image.open(whole[0] / "curves.png") as image:
        assert min(image.size) > 200
        assert np.asarray(image).std() > 10


def test_chosen_steps_are_profiled(tmp_path):
    run(tmp_path, 6, profile_at=3, profile_steps=2)
    traces = [*(tmp_path / "profile").rglob("*.xplane.pb")]
    assert len(traces) == 1
    assert traces[0].stat().st_size > 1000


def test_a_profile_beyond_the_end_or_across_a_resume_is_harmless(tmp_path):
    run(tmp_path / "past", 4, profile_at=9)
    run(tmp_path / "across", 5, profile_at=4, profile_steps=4)  # the run ends during the trace
    run(tmp_path / "across", 9, profile_at=4, profile_steps=4)
    assert len(lines(tmp_path / "across")) == 9


EVALUATED = {"best": "score", "evaluate_every": 4, "checkpoint_every": 100}


def score(state):
    return {"score": float(state["sum"])}


@pytest.fixture(scope="module")
def evaluated_whole(tmp_path_factory):
    """A run of six steps, evaluated after the fourth and the sixth."""
    folder = tmp_path_factory.mktemp("evaluated")
    run(folder, 6, evaluate=score, **EVALUATED)
    return folder


def check_goes_on_with_the_evaluation(folder, whole, step):
    """Checks that the run continues at ``step``, whose checkpoint has no metrics yet."""
    assert steps_in(folder / "checkpoints")[-1] == step
    assert restore_state(folder / "checkpoints", carry()).metrics is None
    run(folder, 6, evaluate=score, **EVALUATED)
    assert lines(folder) == lines(whole)
    assert lines(folder, "environment.jsonl")[-1]["step"] == step
    for name in (folder, whole):
        assert steps_in(name / "checkpoints") == [4, 6]
    best = restore_state(folder / "checkpoints", carry(), best="score")
    assert best.step == 6
    assert best.metrics == restore_state(whole / "checkpoints", carry(), best="score").metrics


@pytest.mark.parametrize("step", [4, 6])
def test_an_evaluation_prevented_by_sigterm_is_done_after_the_restart(
    evaluated_whole, tmp_path, step, monkeypatch
):
    with monkeypatch.context() as patch:
        received = {step: signal.SIGTERM}
        patch.setattr(Interruption, "requested", lambda self, number: received.get(number))
        with pytest.raises(Interrupted, match=f"SIGTERM after step {step} of 6"):
            run(tmp_path, 6, evaluate=score, **EVALUATED)
    check_goes_on_with_the_evaluation(tmp_path, evaluated_whole, step)


@pytest.mark.parametrize("step", [4, 6])
def test_an_evaluation_that_raises_costs_no_step(evaluated_whole, tmp_path, step):
    steps = iter([4, 6])

    def failing(state):
        if next(steps) == step:
            raise MemoryError
        return score(state)

    with pytest.raises(MemoryError):
        run(tmp_path, 6, evaluate=failing, **EVALUATED)
    check_goes_on_with_the_evaluation(tmp_path, evaluated_whole, step)


@pytest.mark.parametrize("broken", [4, 6])
def test_only_the_last_evaluation_must_be_finite(tmp_path, broken):
    steps = iter([4, 6])

    def evaluate(state):
        if next(steps) == broken:
            raise NonFiniteEvaluationError("score nan")
        return score(state)

    with pytest.raises(NonFiniteEvaluationError) if broken == 6 else contextlib.nullcontext():
        run(tmp_path, 6, evaluate=evaluate, **EVALUATED)
    evaluated = [line["step"] for line in lines(tmp_path) if "eval/score" in line]
    assert evaluated == [step for step in (4, 6) if step != broken]
    incidents = read_log(tmp_path / "incidents.jsonl")
    assert [each["step"] for each in incidents] == [4] * (broken == 4)
    assert all("score nan" in each["message"] for each in incidents)


KILLED = """
import os, signal, sys
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 4)
from tests.experiments.engine import test_loop, toy

def killed(state):
    os.kill(os.getpid(), signal.SIGKILL)

toy.run(Path(sys.argv[1]), 6, evaluate=killed, **test_loop.EVALUATED)
"""


@pytest.mark.slow
def test_an_evaluation_that_is_killed_costs_no_step(evaluated_whole, tmp_path):
    program = [sys.executable, "-c", KILLED, str(tmp_path)]
    ended = subprocess.run(program, cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    check_goes_on_with_the_evaluation(tmp_path, evaluated_whole, 4)


def test_an_evaluation_that_was_logged_but_not_saved_is_logged_once(
    evaluated_whole, tmp_path, monkeypatch
):
    def full(self, step, metrics):
        raise CheckpointError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "add_metrics", full)
        with pytest.raises(CheckpointError, match="no space left"):
            run(tmp_path, 6, evaluate=score, **EVALUATED)
    assert "eval/score" in lines(tmp_path)[-1]
    check_goes_on_with_the_evaluation(tmp_path, evaluated_whole, 4)


def test_schedules_do_not_count_skipped_steps(tmp_path):
    def count(state, batch, key, number):
        new, metrics = poisoned_once(state, batch, key, number)
        return new, {**metrics, "number": number}

    def poisoned_once(state, batch, key, number):
        new, metrics = toy.step(state, batch, key, number)
        first = new["sum"] < 60  # only the first batch has such a small sum
        return new, {**metrics, "gradient_norm": jnp.where(first, jnp.inf, 1.0)}

    run(tmp_path, 4, step=count, max_skipped_steps=4)
    found = lines(tmp_path)
    skipped = [line["skipped"] for line in found]
    assert [line["number"] for line in found[1:]] == [
        index - so_far for index, so_far in enumerate(skipped[:-1], start=1)
    ]


def test_a_run_of_no_steps_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"length .* 0$"):
        run(tmp_path, 0)


def test_the_best_checkpoint_is_kept(tmp_path):
    scores = iter([0.1, 0.9, 0.2, 0.3, 0.4])
    run(
        tmp_path,
        10,
        evaluate=lambda state: {"score": next(scores)},
        best="score",
        checkpoint_every=100,
        evaluate_every=2,
    )
    assert steps_in(tmp_path / "checkpoints") == [4, 8, 10]
    assert restore_state(tmp_path / "checkpoints", carry(), best="score").step == 4
    assert restore_state(tmp_path / "checkpoints", carry(), best="other").step == 10
    (tmp_path / "checkpoints/4/state/_METADATA").write_text("{")
    next_best = restore_state(tmp_path / "checkpoints", carry(), best="score")
    assert next_best.step == 10
    assert "checkpoints/4" in next_best.damaged[0]
    assert [line["eval/score"] for line in lines(tmp_path) if "eval/score" in line] == [
        0.1,
        0.9,
        0.2,
        0.3,
        0.4,
    ]


def test_time_is_added_up_over_restarts(tmp_path):
    store = Checkpoints(tmp_path / "checkpoints")
    store.save(0, jax.device_get(carry()), None, {"seconds": 1e6, "seconds_waiting": 1e5})
    store.close()
    configs.save(Config(), tmp_path / "config.json")
    evaluated = []
    run(tmp_path, 3, evaluate=lambda state: evaluated.append(state) or {}, evaluate_every=3)
    assert len(evaluated) == 1  # the run does not start with an evaluation
    restored = restore_state(tmp_path / "checkpoints", carry())
    assert restored.step == 3
    assert 1e6 < restored.progress["seconds"] < 2e6
    assert 1e5 < restored.progress["seconds_waiting"] < 2e5


def test_randomness_differs_by_step_and_device(tmp_path):
    def draw(state, batch, key, number):
        values = jax.lax.all_gather(jax.random.uniform(key), "devices")
        return state, {"loss": jnp.float32(0), "low": values.min(), "high": values.max()}

    run(tmp_path, 4, step=draw)
    drawn = lines(tmp_path)
    assert all(line["low"] < line["high"] for line in drawn)
    assert len({line["low"] for line in drawn}) == 4
