import pytest

from experiments.benchmarks import processes


@pytest.fixture
def in_this_process(monkeypatch):
    """Benchmarks measure in this process; gives the allocator of each of their processes."""
    allocators = []

    def call(function, allocator, *arguments):
        allocators.append(allocator)
        return function(*arguments)

    monkeypatch.setattr(processes, "call", call)
    monkeypatch.setattr(processes, "libc_ver", lambda: ("glibc", "2"))
    return allocators
