import os

import pytest

from experiments.benchmarks.gpu import bringup, plan
from experiments.benchmarks.gpu.child import Tell
from experiments.benchmarks.gpu.outcomes import parse


class Told(Tell):
    """Keeps its messages, as the parent would read them."""

    def __init__(self, path):
        super().__init__(os.open(path, os.O_WRONLY | os.O_CREAT))
        self._path = path

    def said(self, kind):
        messages, garbage = parse(self._path.read_bytes())
        assert garbage is None
        return [message[kind] for message in messages if kind in message]

    def close(self):
        self._file.close()


@pytest.fixture
def tell(tmp_path):
    told = Told(tmp_path / "messages")
    yield told
    told.close()


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """`run_with` puts its own plan in the place of the real one."""
    monkeypatch.setattr(bringup, "Plan", bringup.Plan)


@pytest.fixture
def few_steps(monkeypatch):
    """One main case in one dtype, and nothing after it."""
    monkeypatch.setattr(plan, "MAIN", {"up 2": plan.MAIN["up 2"]})
    monkeypatch.setattr(plan, "MORE", {})
    monkeypatch.setattr(plan, "DTYPES", ("float32",))
