import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.benchmarks.calls import operator
from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu import location, memory, poisoned, smoke
from experiments.benchmarks.gpu.channel_steps import channels_of_a_step
from experiments.benchmarks.gpu.poisoned import Calls
from experiments.benchmarks.kernel_calls import KernelCall
from tests.kernels import oracle

CASE = Case(2, 11, 9, 192, kernel_size=3, up=2)
LOGITS = CASE.replace(normalizer="softmax")


def expected(name, case=CASE):
    """The oracle of a kernel, as a function of its operands."""
    options, size = case.options, case.size
    return {
        "forward": lambda x, w: oracle.reassemble(x, w, **options),
        "dx": lambda w, y: oracle.input_gradient(w, y, size, **options),
        "dw": lambda x, y: oracle.weight_gradient(x, y, **options),
    }[name]


OPERANDS = {"forward": ("x", "kernels"), "dx": ("kernels", "dy"), "dw": ("x", "dy")}


def check(reporter, name, corrupt, case=CASE):
    """Smoke tests the oracle; ``corrupt`` changes its results in place."""

    def program(*arrays):
        found = np.float32(expected(name, case)(*map(np.asarray, arrays)))
        corrupt(found)
        return jnp.asarray(found)

    call = Calls(program, OPERANDS[name], (name,))
    return poisoned.check(reporter, case, call, program, seed=3)


@pytest.mark.parametrize("name", OPERANDS)
def test_a_correct_kernel_passes(reporter, name):
    assert check(reporter, name, lambda found: None) < 1e-6
    assert reporter.messages("wrong") == []
    (measured,) = reporter.messages("measured")
    assert (measured["seed"], measured["same_bits"], len(measured["errors"])) == (3, True, 2)


def shares(reporter):
    return [each["shares"] for each in reporter.messages("measured") if "shares" in each]


@pytest.mark.parametrize("value", [1.0, np.nan])
def test_errors_in_the_last_step_over_the_channels(reporter, value):
    def corrupt(found):
        found[..., 128:] += value

    check(reporter, "forward", corrupt)
    first, second = shares(reporter)
    assert first == second
    assert first["wrong"] == pytest.approx(1 / 3)
    assert first["last step"] == {"of wrong": 1.0, "of all": pytest.approx(1 / 3)}
    assert first["second slot"]["of wrong"] == 0
    assert first["not finite"] == float(np.isnan(value))
    assert first["blocks of 32 channels"] == [4, 5]
    assert "only blocks [4, 5] of 32 channels" in reporter.messages("wrong")[0]
    assert "memory full of NaN" in reporter.messages("wrong")[0]
    assert "memory full of -1000" in reporter.messages("wrong")[1]


def test_errors_in_the_second_slot(reporter):
    def corrupt(found):
        found[..., 64:128] = 0

    check(reporter, "forward", corrupt)
    assert shares(reporter)[0]["second slot"]["of wrong"] == 1.0
    assert shares(reporter)[0]["last step"]["of wrong"] == 0.0


def test_errors_at_the_border_of_one_map(reporter):
    def corrupt(found):
        found[1, 0] = 7.0

    check(reporter, "dx", corrupt)
    assert shares(reporter)[0]["border"]["of wrong"] == 1.0
    assert shares(reporter)[0]["maps"] == [1]
    assert "only maps [1]" in reporter.messages("wrong")[0]


def test_errors_in_tiles_that_extend_beyond_the_map(reporter):
    def corrupt(found):
        found[:, 16:] = 7.0  # rows 8, 9 and 10 of the cells, of tiles of 8

    check(reporter, "forward", corrupt)
    assert shares(reporter)[0]["cut tiles"]["of wrong"] == 1.0
    assert shares(reporter)[0]["odd tiles"]["of wrong"] == 1.0
    assert shares(reporter)[0]["border"]["of wrong"] < 1.0


def test_errors_in_the_sum_of_one_step(reporter):
    channels = channels_of_a_step(CASE, "dw")
    assert channels == 32

    def program(x, dy):
        x, dy = np.array(x), np.array(dy)
        dy[..., channels : 2 * channels] = 0  # leaves out a step
        return jnp.asarray(np.float32(expected("dw")(x, dy)))

    poisoned.check(reporter, CASE, Calls(program, ("x", "dy"), ("dw",)), program, seed=0)
    assert "with the channels of one step alone: wrong in [1] of 6" in reporter.messages("wrong")[1]


def test_a_run_with_other_bits_is_reported(reporter):
    ends = iter((-np.inf, np.inf))

    def corrupt(found):
        found[0, 0, 0, 0] = np.nextafter(found[0, 0, 0, 0], np.float32(next(ends)))

    check(reporter, "forward", corrupt)
    assert "another run gave other bits" in reporter.messages("wrong")[0]


def test_memory_is_poisoned_before_each_run(reporter, monkeypatch):
    filled = []
    monkeypatch.setattr(
        poisoned, "poison", lambda shapes, value: filled.append((shapes, value)) or []
    )
    check(reporter, "dx", lambda found: None)
    assert [str(value) for _, value in filled] == ["nan", "-1000.0"]
    shapes = {shape for shape, _ in filled[0][0]}
    assert shapes == {CASE.weights_shape, CASE.y_shape, CASE.x_shape}


def test_poisoned_memory_is_freed():
    memory.poison([((3,), "bfloat16"), ((2, 2), "float32")], float("nan"))
    before = len(jax.live_arrays())
    memory.poison([((3,), "bfloat16"), ((2, 2), "float32")], float("nan"))
    assert len(jax.live_arrays()) == before


@pytest.mark.parametrize("case", [CASE, LOGITS], ids=["weights", "logits"])
def test_a_backward_pass_is_called_as_a_whole(case):
    (call,) = smoke.calls_of(case, smoke.GRADIENTS).values()
    assert call.results == ("dx", "dw" if case.normalizer is None else "dlogits")
    assert [*smoke.calls_of(case, None)] == ["forward", *call.results]
    assert [*smoke.calls_of(case, "dx")] == ["dx"]


def test_cases_that_do_not_support_the_settings_are_skipped(reporter, monkeypatch):
    def by_xla(case):
        def dw(x, dy):
            if case.dtype == "bfloat16":
                raise NotImplementedError("float32 alone")
            weights = jnp.zeros(case.weights_shape)
            return jax.vjp(lambda w: operator(case, "xla")(x, w), weights)[1](dy)[0]

        return {"dw": KernelCall(dw, ("x", "dy"))}

    monkeypatch.setattr(smoke, "kernel_calls", by_xla)
    cases = [CASE.to_json(), CASE.replace(dtype="bfloat16").to_json()]
    summary = smoke.smoke(reporter, cases, "dw", [1, 2], {"max_slots": 1})
    assert "1 of 2 refused" in summary
    assert [each.get("refused") for each in reporter.messages("measured")] == [
        None, None, "NotImplementedError: float32 alone",
    ]  # fmt: skip
    with pytest.raises(NotImplementedError, match="float32 alone"):
        smoke.smoke(reporter, cases[1:], "dw", [1], {})


def test_results_in_poisoned_memory_are_reported(reporter, monkeypatch):
    """Only a result in poisoned memory shows elements that were never written."""
    ranges = iter(([memory.Range(0, 2**63)], [memory.Range(0, 1)]))
    monkeypatch.setattr(poisoned, "poison", lambda *_: next(ranges))
    check(reporter, "forward", lambda found: None)
    (measured,) = reporter.messages("measured")
    assert measured["in_poison"] == {"forward, NaN": True, "forward, -1000": False}


def test_poison_returns_the_filled_ranges():
    filled = memory.poison([((3,), "bfloat16"), ((2, 2), "float32")], float("nan"))
    assert [each.nbytes for each in filled] == [6] * 3 + [16] * 3
    array = jnp.zeros((2, 2))
    assert memory.Range.of(array) == (array.unsafe_buffer_pointer(), 16)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6)), max_size=5),
       st.integers(0, 20), st.integers(1, 6))  # fmt: skip
def test_a_range_lies_in_others_if_they_cover_all_its_bytes(others, start, nbytes):
    filled = {byte for first, count in others for byte in range(first, first + count)}
    lies = memory.Range(start, nbytes).lies_in([memory.Range(*each) for each in others])
    assert lies == ({*range(start, start + nbytes)} <= filled)


sizes = st.integers(1, 40)


@given(rows=sizes, columns=sizes, cell=st.integers(1, 4), radius=st.integers(1, 3))
def test_parts_agree_with_their_definitions(rows, columns, cell, radius):
    shape = 1, rows, columns, 1
    parts = location.parts(shape, (cell, cell), radius)
    for i in range(rows):
        for j in range(columns):
            q, r = i // cell, j // cell
            last_q, last_r = (rows - 1) // cell, (columns - 1) // cell
            near = min(q, r, last_q - q, last_r - r) < radius
            size = location.TILE_CELLS
            cut = (q // size + 1) * size > last_q + 1 or (r // size + 1) * size > last_r + 1
            odd = q // size % 2 == 1 or r // size % 2 == 1
            found = {name: bool(mask[0, i, j, 0]) for name, mask in parts.items()}
            assert found == {"border": near, "cut tiles": cut, "odd tiles": odd}
