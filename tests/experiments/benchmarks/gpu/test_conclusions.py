import pytest

from experiments.benchmarks.gpu.outcomes import Outcome
from experiments.benchmarks.gpu.switches import SWITCHES, conclusion


@pytest.mark.parametrize(
    ("helped", "expected"),
    [
        ({"automatic barriers"}, "a barrier between the threads of a block is missing"),
        ({"one slot"}, "its barrier or its parity"),
        ({"padded maps"}, "bounds"),
        ({"one step"}, "corrupts the next"),
        ({"one step", "padded maps"}, "right with padded maps, one step"),
        (set(), "no switch helps: arithmetic"),
    ],
)
def test_conclusions(helped, expected):
    outcomes = {switch: Outcome.OK if switch in helped else Outcome.WRONG for switch in SWITCHES}
    text = conclusion("reassemble dx float32", outcomes)
    assert text.startswith("reassemble dx float32: ")
    assert expected in text
    assert "not known" not in text


def test_a_conclusion_lists_unknown_outcomes():
    outcomes = {"one slot": Outcome.WRONG, "padded maps": Outcome.NOT_RUN}
    text = conclusion("kernel", outcomes)
    assert text == (
        "kernel: no switch that ran helps (not known: automatic barriers, padded maps, one step)"
    )


def test_a_conclusion_lists_switches_that_do_not_apply():
    outcomes = dict.fromkeys(SWITCHES, Outcome.WRONG) | {"one slot": Outcome.REFUSED}
    assert conclusion("kernel", outcomes) == (
        "kernel: no switch helps: arithmetic, layouts or addresses, not the order of accesses "
        "(does not apply: one slot)"
    )
