"""Signals in one process; ``test_processes.py`` sends them to programs."""

import concurrent.futures
import contextlib
import signal

import pytest

from experiments.engine.checkpoints import steps_in
from experiments.engine.errors import Interrupted
from experiments.engine.monitoring.logs import read_log
from tests.experiments.engine import toy


@contextlib.contextmanager
def handling_ctrl_c(handler):
    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, previous)


def raising(*numbers):
    """Returns an evaluation during which the program receives signals."""

    def evaluate(state):
        for number in numbers:
            signal.raise_signal(number)
        return {"score": float(state["sum"])}

    return evaluate


def scores(folder):
    found = read_log(folder / "metrics.jsonl")
    return [line["eval/score"] for line in found if "eval/score" in line]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_last_evaluation_ends_the_program_after_it(tmp_path, number, capfd):
    message = f"{number.name} after step 3 of 3"
    # A script that starts the tests in the background would make them ignore SIGINT.
    with (
        handling_ctrl_c(signal.default_int_handler),
        pytest.raises(Interrupted, match=message) as interrupted,
    ):
        toy.run(tmp_path, 3, evaluate=raising(number))
    assert interrupted.value.received == number
    assert ("ctrl-C again" in capfd.readouterr().err) == (number == signal.SIGINT)
    assert [line["step"] for line in read_log(tmp_path / "metrics.jsonl")][-1] == 3
    # The run is finished; without the signal, further runs of a table would follow.
    toy.run(tmp_path, 3, evaluate=lambda state: {"score": 0.0})


@pytest.mark.parametrize("between", [(), (signal.SIGTERM,)])
def test_a_second_ctrl_c_ends_the_run_at_once(tmp_path, between):
    evaluate = raising(signal.SIGINT, *between, signal.SIGINT)
    with handling_ctrl_c(signal.default_int_handler), pytest.raises(KeyboardInterrupt):
        toy.run(tmp_path, 3, evaluate=evaluate)
    assert not scores(tmp_path)
    assert steps_in(tmp_path / "checkpoints") == [3]


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None])
def test_a_handler_of_the_program_stays(tmp_path, handler):
    with handling_ctrl_c(handler):
        toy.run(tmp_path, 3, evaluate=raising(signal.SIGINT, signal.SIGINT))
    assert len(scores(tmp_path)) == 1


def test_in_another_thread_no_signal_is_recorded(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        state = pool.submit(toy.run, tmp_path, 3).result()
    assert state["sum"] > 0
    assert steps_in(tmp_path / "checkpoints") == [3]
