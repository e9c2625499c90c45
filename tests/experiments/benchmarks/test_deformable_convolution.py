from experiments.benchmarks import deformable_convolution
from experiments.benchmarks.deformable_convolution import Measured, Shape, measure
from experiments.benchmarks.timing import Timing
from tests.experiments.benchmarks.markdown_tables import tables

SMALL = Shape((1, 5, 6, 4), 3)


def test_the_three_functions_are_timed_in_each_pass():
    found = measure(SMALL, "bfloat16", rounds=1)
    assert [*found] == ["forward", "with gradient"]
    for by_name in found.values():
        assert [*by_name] == ["plain", "ours", "autodiff"]
        assert all(each.timing.milliseconds > 0 for each in by_name.values())
        assert by_name["plain"].operand_bytes < by_name["ours"].operand_bytes


def test_the_table_has_a_row_for_each_pass(in_this_process, monkeypatch, capsys):
    def measured(shape, dtype, rounds):
        by_name = {
            name: Measured(Timing(milliseconds, 0, 1.0, 3_000), 2_000)
            for name, milliseconds in (("plain", 4.0), ("ours", 8.0), ("autodiff", 20.0))
        }
        return dict.fromkeys(("forward", "with gradient"), by_name)

    monkeypatch.setattr(deformable_convolution, "measure", measured)
    monkeypatch.setattr(deformable_convolution, "SHAPES", [SMALL])
    deformable_convolution.run(rounds=1)
    ((headings, *rows),) = tables(capsys.readouterr().out)
    assert headings[2:4] == ["memory kept, plain, ms", "memory kept, ours, ms (times plain)"]
    label = "1x5x6x4 to 3, float32"
    assert rows[0] == [label, "forward", "4", "8 (2.0)", "20 (5.0)", "1.5", "1.5", "1.5"]
    assert len(rows) == 4
    assert in_this_process == ["defaults", "memory kept", "memory kept"]
