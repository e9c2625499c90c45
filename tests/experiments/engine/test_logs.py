import pytest

from experiments.engine.logs import METRICS, RunLogs, read_metrics


@pytest.mark.parametrize(
    ("evaluated", "kept"), [(True, [{"loss"}, {"loss"}, {"eval/x"}]), (False, [{"loss"}, {"loss"}])]
)
def test_lines_that_a_resumed_run_writes_again_are_dropped(tmp_path, evaluated, kept):
    logs = RunLogs(tmp_path, resume_at=0)
    logs.metrics(1, {"loss": 0.1})
    logs.metrics(2, {"loss": 0.2})
    logs.evaluation(2, {"x": 0.5})
    logs.metrics(3, {"loss": 0.3})
    logs.close()
    RunLogs(tmp_path, 2, evaluated).close()
    lines = read_metrics(tmp_path / METRICS)
    assert [line.keys() - {"step"} for line in lines] == kept
    assert {line["step"] for line in lines} == {1, 2}


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 0.5}]


def test_an_absent_file_is_an_empty_log(tmp_path):
    assert read_metrics(tmp_path / "none") == []
