from fractions import Fraction

import pytest

from experiments.benchmarks import any_scale
from experiments.benchmarks.any_scale import INTEGERS, SCALES, nearest_integer, times
from experiments.benchmarks.timing import Timing
from tests.experiments.benchmarks.markdown_tables import tables


@pytest.mark.parametrize(
    ("scale", "nearest"),
    [("1.3", 1), ("1.5", 2), ("2.4", 2), ("2.5", 3), ("0.6", "1/2"), ("0.74", 1), ("0.4", "1/3")],
)
def test_the_nearest_scale_has_the_smallest_ratio(scale, nearest):
    assert nearest_integer(Fraction(scale)) == Fraction(nearest)


@pytest.mark.slow
def test_every_scale_is_timed(monkeypatch):
    monkeypatch.setattr(any_scale, "SCALES", (Fraction("1.3"),))
    monkeypatch.setattr(any_scale, "INTEGERS", (Fraction(1),))
    found = times((1, 4, 5, 2), "float32", rounds=1)
    assert [*found] == ["forward", "with gradient"]
    for timings in found.values():
        assert [*timings] == [1, Fraction("1.3")]
        assert all(timing.milliseconds > 0 for timing in timings.values())


def test_the_table_has_a_row_for_each_scale(in_this_process, monkeypatch, capsys):
    def timed(shape, dtype, rounds):
        found = dict.fromkeys(INTEGERS, Timing(2.0, 0, 1.0, 3_000_000))
        found |= dict.fromkeys(SCALES, Timing(5.0, 0, 1.0, 4_000_000))
        return {"forward": found, "with gradient": found}

    monkeypatch.setattr(any_scale, "times", timed)
    monkeypatch.setattr(any_scale, "MAPS", (((1, 50, 50, 256), "float32"),))
    any_scale.run(rounds=1)
    ((_, *rows),) = tables(capsys.readouterr().out)
    timing = ["5.00 (2.50)", "4.0 (3.0)"]
    assert rows[0] == ["1x50x50x256, float32", "0.4", "1/3", *timing, *timing]
    assert len(rows) == len(SCALES)
    assert in_this_process == ["defaults", "memory kept"]
