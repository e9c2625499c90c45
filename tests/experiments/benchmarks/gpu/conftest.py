import os

import pytest

from experiments.benchmarks.gpu import bringup, plan
from experiments.benchmarks.gpu.child import Reporter
from experiments.benchmarks.gpu.outcomes import parse


class RecordingReporter(Reporter):
    """Keeps its messages, parsed in the same way as in the parent process."""

    def __init__(self, path, lock=os.devnull):
        super().__init__(os.open(path, os.O_WRONLY | os.O_CREAT), str(lock))
        self._path = path

    def messages(self, kind):
        messages, garbage = parse(self._path.read_bytes())
        assert garbage is None
        return [message[kind] for message in messages if kind in message]

    def close(self):
        self._file.close()


@pytest.fixture
def reporter(tmp_path):
    reporter = RecordingReporter(tmp_path / "messages")
    yield reporter
    reporter.close()


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """Restores the plan, which `run_with` replaces."""
    monkeypatch.setattr(bringup, "Plan", bringup.Plan)


@pytest.fixture
def few_steps(monkeypatch):
    """Plans one main case in one dtype, and no further cases."""
    monkeypatch.setattr(plan, "MAIN", {"up 2": plan.MAIN["up 2"]})
    monkeypatch.setattr(plan, "MORE", {})
    monkeypatch.setattr(plan, "DTYPES", ("float32",))
