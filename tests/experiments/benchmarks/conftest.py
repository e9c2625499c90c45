import pytest

from experiments.benchmarks import processes


@pytest.fixture
def in_this_process(monkeypatch):
    """Runs benchmarks in this process; returns a list of the allocators that they ask for."""
    allocators = []

    def call(function, allocator, *arguments):
        allocators.append(allocator)
        return function(*arguments)

    monkeypatch.setattr(processes, "call", call)
    monkeypatch.setattr(processes, "libc_ver", lambda: ("glibc", "2"))
    return allocators
