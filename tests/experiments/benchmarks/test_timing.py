import mmap
import time

import jax.numpy as jnp
import pytest

from experiments.benchmarks.timing import Program, Steps, in_turns


def test_functions_take_turns_that_begin_with_warm_up_calls():
    called = []
    functions = {name: lambda name=name: called.append(name) for name in "ab"}
    in_turns(functions, rounds=2, calls=3)
    turn = "a" * 5 + "b" * 5
    assert "".join(called) == "ab" + 2 * turn


def test_a_turn_of_a_slow_function_is_one_call():
    called = []

    def slow():
        called.append(0)
        time.sleep(0.31)

    found = in_turns({"slow": slow}, rounds=2, calls=5)["slow"]
    assert len(called) == 2 + 2
    assert 310 <= found.milliseconds < 3000


@pytest.mark.parametrize("hiccup", [0, 3, 4])
def test_a_function_with_a_single_slow_call_is_not_slow(hiccup):
    called = []

    def function():
        if len(called) == hiccup:
            time.sleep(0.31)
        called.append(0)

    found = in_turns({"": function}, rounds=2, calls=3)[""]
    assert len(called) == (2 if hiccup == 0 else 1) + 2 * 5
    assert found.milliseconds < 310


def test_the_time_is_the_median_of_the_calls():
    seconds = iter([0, 0, 0, 0.01, 0.02, 0.2])
    found = in_turns({"": lambda: time.sleep(next(seconds))}, rounds=1, calls=3)[""]
    assert 20 <= found.milliseconds < 200


def test_page_faults_of_a_call_are_counted():
    def maps():
        with mmap.mmap(-1, 2**25) as memory:
            for page in range(0, 2**25, mmap.PAGESIZE):
                memory[page] = 1

    found = in_turns({"maps": maps, "none": lambda: None}, rounds=1, calls=2)
    # Sixteen pages if they are huge pages.
    assert found["maps"].page_faults >= 16 > found["none"].page_faults


def test_a_program_has_compile_time_and_temporary_memory():
    program = Program(lambda a: (a @ a) @ (a + 1), (jnp.ones((64, 64)),))
    found = in_turns({"": program}, rounds=1, calls=1)[""]
    assert found.compile_seconds > 0
    assert found.temporary_bytes >= 64 * 64 * 4


def test_a_function_that_is_not_compiled_has_no_compile_time():
    found = in_turns({"": lambda: None}, rounds=1, calls=1)[""]
    assert (found.compile_seconds, found.temporary_bytes) == (None, None)


def test_every_step_starts_from_the_last_state():
    seen = []
    state = jnp.zeros(())
    steps = Steps(lambda state, batch: state + batch, state, jnp.ones(()))
    for _ in range(3):
        steps()
        seen.append(steps.state.item())
    assert seen == [1, 2, 3]
    assert state.is_deleted()
