import pytest

from experiments.benchmarks import (
    convolutions,
    detection_operations,
    formulations,
    input_pipeline,
    layer,
    networks,
    operator,
    processes,
    pytorch,
    scaling,
)
from experiments.benchmarks.networks import PASSES, Sizes
from experiments.benchmarks.timing import Timing
from experiments.engine.config import ConfigError
from tests.experiments.benchmarks.markdown_tables import tables

SMALL = Sizes(depth=18, batch=1, side=32, detected=(64, 64))
OURS = ["ours", "ours, CARAFE++", "ours", "ours, CARAFE++", "ours", "ours, CARAFE++ in FPN"]


def timed(ours, theirs):
    return {"ours": Timing(ours, 7, 2.5, 3_000_000), "torchvision": Timing(theirs, 9)}


def test_networks_that_are_not_compiled_have_no_compile_time():
    assert [*networks.rows("pass", timed(20.0, 40.0), timed(10.0, 30.0))] == [
        ["pass", "ours", "20.0", "1.00", "7", "10.0", "1.00", "7", "2.5", "3"],
        ["", "torchvision", "40.0", "2.00", "9", "30.0", "3.00", "9", "-", "-"],
    ]
    assert len(networks.headings(True)) == 10


def test_without_huge_pages_there_are_no_columns_for_them():
    first, _ = networks.rows("pass", timed(20.0, 40.0), None)
    assert first == ["pass", "ours", "20.0", "1.00", "7", "2.5", "3"]
    assert len(networks.headings(False)) == len(first)


@pytest.mark.slow
def test_the_table_has_a_row_for_each_network(in_this_process, monkeypatch, capsys):
    monkeypatch.setattr(pytorch, "load", lambda platform: None)
    monkeypatch.setattr(processes, "libc_ver", lambda: ("", ""))
    networks.run(rounds=1, sizes=SMALL)
    printed = capsys.readouterr().out
    assert "its times are left out" in printed
    ((_, *found),) = tables(printed)
    assert [row[1] for row in found] == OURS
    assert [row[0] for row in found if row[0]] == [*PASSES]
    assert all(float(row[-2]) > 0 and float(row[-1]) > 0 for row in found)
    assert in_this_process == ["defaults"] * 4


@pytest.mark.parametrize(
    "benchmark",
    [
        convolutions,
        detection_operations,
        formulations,
        input_pipeline,
        layer,
        networks,
        operator,
        scaling,
    ],
)
def test_zero_rounds_are_rejected(benchmark):
    with pytest.raises(ConfigError, match=r"rounds.* 0$"):
        benchmark.run(rounds=0)
