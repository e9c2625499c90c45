import dataclasses

import pytest

from experiments.engine.config import ConfigError
from experiments.engine.presets import Experiment
from experiments.engine.tables.dry_run import dry_run
from tests.experiments.engine.toy_spec import NARROW, WIDE, toy_spec


def entries_of(printed, row):
    (line,) = [line for line in printed.splitlines() if line.startswith(f"│ {row} ")]
    return [entry.strip() for entry in line.strip("│").split("│")]


def test_a_dry_run_prints_parameters_and_operations_from_shapes_only(capsys):
    def refuse(*arguments):
        raise AssertionError("a dry run compiles nothing and trains nothing")

    spec, _ = toy_spec(step_seconds=refuse, train=refuse)
    dry_run(spec, "table1")
    printed = capsys.readouterr().out
    paper = "accuracy 12.3 %, 4.5 fps"
    assert entries_of(printed, "Narrow") == ["Narrow", "32,000", "2", paper]
    assert entries_of(printed, "Wide") == ["Wide", "64,000", "4", "none: too wide"]
    dry_run(spec, "table1", shorter_side=8)
    assert entries_of(capsys.readouterr().out, "Narrow")[1] == "8,000"


def test_timed_steps_give_speed_also_as_a_share_of_the_first_row(capsys):
    calls = []

    def step_seconds(config, batch_size):
        calls.append((config.width, config.dtype, batch_size))
        return 0.5 * config.width, 0.25 * config.width

    spec, _ = toy_spec(step_seconds=step_seconds)
    dry_run(spec, "table1", time_steps=True, batch_size=4, dtype="bfloat16")
    assert calls == [(1, "bfloat16", 4), (2, "bfloat16", 4)]
    printed = capsys.readouterr().out
    calls.clear()
    rough = dataclasses.replace(NARROW, config=dataclasses.replace(NARROW.config, dtype="bfloat16"))
    own, _ = toy_spec(
        step_seconds=step_seconds, experiments={"own": Experiment("Own", (rough, WIDE))}
    )
    dry_run(own, "own", time_steps=True, batch_size=4)
    assert calls == [(1, "bfloat16", 4), (2, "float32", 4)]
    assert "4 images a step" in printed
    assert entries_of(printed, "Narrow")[3:-1] == ["500", "8", "250", "16", "1.00"]
    assert entries_of(printed, "Wide")[3:-1] == ["1000", "4", "500", "8", "0.50"]


def test_times_of_a_row_are_printed_before_the_next_row_runs(capsys):
    def step_seconds(config, batch_size):
        if config.width > 1:
            raise MemoryError
        return 0.5, 0.25

    spec, _ = toy_spec(step_seconds=step_seconds)
    with pytest.raises(MemoryError):
        dry_run(spec, "table1", time_steps=True, batch_size=4)
    assert "training 500.0 ms, inference 250.0 ms" in capsys.readouterr().out


def test_a_batch_that_the_devices_cannot_share_is_refused_before_anything_is_built():
    spec, _ = toy_spec(cost=None)
    with pytest.raises(ConfigError, match=r"batch_size.*4.*2"):
        dry_run(spec, "table1", time_steps=True, batch_size=2)
