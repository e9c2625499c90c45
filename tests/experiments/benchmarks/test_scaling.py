import math

from experiments.benchmarks.cases import Case
from experiments.benchmarks.scaling import CASES, entries, print_table
from experiments.benchmarks.timing import Timing
from tests.experiments.benchmarks.markdown_tables import tables


def test_only_one_axis_grows_at_a_time():
    base = CASES[0]
    for case in CASES:
        differ = [a != b for a, b in zip(case.x_shape, base.x_shape, strict=True)]
        assert sum(differ) <= 1
    assert len({math.prod(case.y_shape) for case in CASES}) > 4


def test_the_table_has_a_row_for_a_case(in_this_process, capsys):
    case = Case(1, 3, 3, 4, kernel_size=3, up=2)
    print_table([case], rounds=1)
    ((headings, found),) = tables(capsys.readouterr().out)
    assert headings[2:6] == ["forward, ns", "input gradient, ns", "weight gradient, ns",
                             "page faults"]  # fmt: skip
    assert headings[6:] == [f"memory kept, {name}" for name in headings[2:6]]
    assert found[0] == "1x3x3x4"
    assert in_this_process == ["defaults", "defaults", "memory kept"]


def test_a_case_with_several_rows_is_measured_once(in_this_process, capsys):
    case = Case(1, 3, 3, 4, kernel_size=3, up=2)
    print_table([case, case.replace(batch=2), case], rounds=1)
    ((_, *rows),) = tables(capsys.readouterr().out)
    assert [row[0] for row in rows] == ["1x3x3x4", "2x3x3x4", "1x3x3x4"]
    assert rows[0] == rows[2]
    assert in_this_process == ["defaults", *["defaults", "memory kept"] * 2]


def test_times_are_per_element_of_the_output():
    case = Case(1, 5, 5, 10, up=2)  # 1000 outputs
    times = {"forward": Timing(2e-3, 3), "input gradient": Timing(1, 4)}
    assert [*entries(case, [times])] == ["1x5x5x10", "0.0", "2.00", "1000.00", "7"]
