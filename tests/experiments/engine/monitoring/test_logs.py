import pytest

from experiments.engine.monitoring.logs import METRICS, LogError, RunLogs, read_log, read_metrics


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


def test_a_line_truncated_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 0.5}]


def test_an_absent_file_is_an_empty_log(tmp_path):
    assert read_metrics(tmp_path / "none") == []


@pytest.mark.parametrize(
    "damaged", ["{", "", "3", "{}", '{"step": 1e999}', '{"step": "2"}', "[" * 10**5]
)
def test_a_damaged_line_is_named_and_the_log_is_unchanged(tmp_path, damaged):
    path = tmp_path / METRICS
    text = f'{{"step": 1, "loss": 0.5}}\n{damaged}\n{{"step": 3, "loss": 0.4}}\n'
    path.write_text(text)
    for read in (read_log, read_metrics, lambda path: RunLogs(path.parent, resume_at=3)):
        with pytest.raises(LogError, match=r"metrics\.jsonl.* 2 "):
            read(path)
    assert path.read_text() == text


@pytest.mark.parametrize("value", ['"low"', "[1]", "true", "1e999", "NaN", "9" * 400])
def test_a_metric_that_is_not_a_number_is_named(tmp_path, value):
    path = tmp_path / METRICS
    path.write_text(f'{{"step": 1, "loss": null}}\n{{"step": 2, "loss": {value}}}\n')
    with pytest.raises(LogError, match=r"metrics\.jsonl.* 2 .*loss"):
        read_metrics(path)
