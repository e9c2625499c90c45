import math
import os

import pytest

from experiments.benchmarks import processes
from experiments.benchmarks.machine import Machine


@pytest.mark.parametrize("allocator", processes.ALLOCATORS)
def test_a_process_has_its_own_allocator_settings(allocator, monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    before = dict(os.environ)
    found = processes.call(_environment, allocator)
    assert found == {**processes.SLEEPING, **processes.ALLOCATORS[allocator]}
    assert dict(os.environ) == before


def _environment():
    # Libraries that other tests load set further OpenMP variables.
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("MALLOC", "GLIBC")) or name in processes.SLEEPING
    }


def test_an_exception_in_a_process_is_raised_here():
    with pytest.raises(ValueError, match=r"math domain|nonnegative"):
        processes.call(math.sqrt, "memory kept", -1.0)


def test_allocators_are_set_only_on_cpus_with_glibc(monkeypatch):
    for libc, on_cpu in (("glibc", "huge pages"), ("", "defaults")):
        monkeypatch.setattr(processes, "libc_ver", lambda libc=libc: (libc, "2"))
        assert processes.or_defaults("huge pages", "cpu") == on_cpu
        assert processes.or_defaults("huge pages", "gpu") == "defaults"


def test_the_header_of_a_table_names_the_settings():
    machine = Machine("cpu", "a device")
    defaults, kept = (processes.header(machine, name) for name in ("defaults", "memory kept"))
    for found in (defaults, kept):
        assert found.startswith("a device\n")
        assert "defaults" in found
        assert "OMP_WAIT_POLICY=PASSIVE" in found
    assert "MALLOC_MMAP_MAX_=0" not in defaults
    assert "MALLOC_MMAP_MAX_=0" in kept
