import pytest

from experiments.benchmarks import processes


@pytest.fixture
def in_this_process(monkeypatch):
    """Benchmarks measure in this process; gives whether each of their processes kept memory."""
    kept = []

    def call(function, keep_memory, *arguments):
        kept.append(keep_memory)
        return function(*arguments)

    monkeypatch.setattr(processes, "call", call)
    monkeypatch.setattr(processes, "can_keep_memory", lambda platform: True)
    return kept
