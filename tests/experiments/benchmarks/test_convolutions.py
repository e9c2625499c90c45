import pytest

from experiments.benchmarks import convolutions
from experiments.benchmarks.convolutions import Convolution, times
from experiments.benchmarks.timing import Timing
from tests.experiments.benchmarks.markdown_tables import tables

SMALL = Convolution("encoder", (1, 6, 7, 64), 100, 3, 2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_implementations_are_timed_in_each_pass(dtype):
    found = times(SMALL, dtype, rounds=1)
    assert [*found] == ["forward", "with gradient"]
    for timings in found.values():
        assert [*timings] == ["XLA", "ours"]
        assert all(timing.milliseconds > 0 for timing in timings.values())


def test_the_table_has_a_row_for_each_pass(in_this_process, monkeypatch, capsys):
    def timed(convolution, dtype, rounds):
        ours, xla = Timing(2.0, 0, 1.0, 3_000_000), Timing(5.0, 0, 1.0, 4_000_000)
        return {name: {"XLA": xla, "ours": ours} for name in ("forward", "with gradient")}

    monkeypatch.setattr(convolutions, "times", timed)
    monkeypatch.setattr(convolutions, "CONVOLUTIONS", [SMALL])
    convolutions.run(rounds=1)
    ((headings, *rows),) = tables(capsys.readouterr().out)
    assert headings[2:4] == ["memory kept, ours, ms", "memory kept, XLA, ms (times ours)"]
    label = "encoder: 3x3, stride 2, 1x6x7x64 to 100, float32"
    assert rows[0] == [label, "forward", "2.00", "5.00 (2.5)", "3.0", "4.0"]
    assert len(rows) == 4
    assert in_this_process == ["defaults", "memory kept", "memory kept"]
