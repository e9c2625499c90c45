import pytest

from experiments.benchmarks import upsamplers
from experiments.benchmarks.timing import Timing
from experiments.benchmarks.upsamplers import MapShape, Measured, measure
from experiments.engine.tables.cost import Cost
from tests.experiments.benchmarks.markdown_tables import tables

SMALL = MapShape("FPN", (1, 3, 4, 8))


@pytest.mark.slow
def test_upsamplers_with_and_without_guide_are_measured():
    found = measure(SMALL, ("nearest", "sapa"), rounds=1)
    assert [*found] == ["nearest", "sapa"]
    assert found["nearest"].cost.parameters == 0
    assert found["sapa"].cost.parameters == 2 * (8 * 32 + 32) + 4 * 8
    for measured in found.values():
        assert measured.forward.milliseconds > 0
        assert measured.with_gradient.milliseconds > 0


def test_the_tables_have_a_row_for_each_upsampler(in_this_process, monkeypatch, capsys):
    def measured(shape, methods, rounds):
        slow = {"nearest": 1, "carafe": 2}
        return {
            method: Measured(
                Cost(1234, 5_670_000_000),
                Timing(2.0 * slow[method], 0, 1.0, 3_000_000),
                Timing(5.0 * slow[method], 0, 1.0, 4_000_000),
            )
            for method in methods
        }

    monkeypatch.setattr(upsamplers, "measure", measured)
    monkeypatch.setattr(upsamplers, "SHAPES", (SMALL, SMALL))
    upsamplers.run(("nearest", "carafe"), rounds=1)
    first, second = tables(capsys.readouterr().out)
    assert first == second
    assert first[1:] == [
        ["`nearest`", "1,234", "5.67", "2.00 (0.50)", "3.0", "5.00 (0.50)", "4.0"],
        ["`carafe`", "1,234", "5.67", "4.00 (1.00)", "3.0", "10.00 (1.00)", "4.0"],
    ]
    assert in_this_process == ["defaults", "memory kept", "memory kept"]
