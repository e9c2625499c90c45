import math
import os

import pytest

from experiments.benchmarks import processes


@pytest.mark.parametrize("keep_memory", [False, True])
def test_the_allocator_of_a_process_is_set_whatever_that_of_this_one_is(keep_memory, monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    before = dict(os.environ)
    found = processes.call(_environment, keep_memory)
    assert found == (processes.KEPT if keep_memory else {})
    assert dict(os.environ) == before


def _environment():
    return {name: os.environ[name] for name in os.environ if "MALLOC" in name or "GLIBC" in name}


def test_errors_of_a_process_are_raised():
    with pytest.raises(ValueError, match=r"math domain|nonnegative"):
        processes.call(math.sqrt, True, -1.0)


def test_memory_is_kept_on_cpus_with_glibc_only(monkeypatch):
    for libc, expected in (("glibc", [True, False]), ("", [False, False])):
        monkeypatch.setattr(processes, "libc_ver", lambda libc=libc: (libc, "2"))
        assert [processes.can_keep_memory(platform) for platform in ("cpu", "gpu")] == expected


def test_the_line_above_a_table_names_the_settings():
    assert "defaults" in processes.allocator(False)
    assert "MALLOC_MMAP_MAX_=0" in processes.allocator(True)
