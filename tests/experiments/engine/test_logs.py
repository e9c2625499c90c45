from experiments.engine.logs import MetricsLog, read_metrics


def test_lines_past_the_checkpoint_are_dropped_on_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, resume_at=0)
    for step in (1, 2, 3):
        log.write(step, {"loss": step / 10})
    log.close()
    log = MetricsLog(path, resume_at=2)
    log.write(3, {"loss": 0.9})
    log.close()
    assert [line["loss"] for line in read_metrics(path)] == [0.1, 0.2, 0.9]


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 0.5}]


def test_an_absent_file_is_an_empty_log(tmp_path):
    assert read_metrics(tmp_path / "none") == []
