"""Calls of functions in processes of their own, which differ in how memory is allocated.

By default, glibc maps every block above 32 MB anew and gives it back when it is freed, so that a
program which allocates its results in each call spends its time on page faults. The environment of
a process can change that; it is read when the process starts.

The threads of OpenMP, which PyTorch computes with, go on spinning after what they computed, on the
cores on which the next function is timed. In these processes they sleep.
"""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from platform import libc_ver
from typing import Literal

from experiments.benchmarks.machine import Machine

# The environment of a process by what the allocator of glibc does in it: it has its defaults; it
# keeps what is freed; or it asks for huge pages, of which a large block has few.
type Allocator = Literal["defaults", "memory kept", "huge pages"]
ALLOCATORS: dict[Allocator, Mapping[str, str]] = {
    "defaults": {},
    "memory kept": {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "8000000000",
    },
    "huge pages": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
}
# The first is OpenMP's, the second that of Intel's and LLVM's libraries.
SLEEPING = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


def or_defaults(allocator: Allocator, platform: str) -> Allocator:
    """An allocator, or ``"defaults"`` where arrays of JAX's platform are not in glibc's memory."""
    return allocator if platform == "cpu" and libc_ver()[0] == "glibc" else "defaults"


def above(machine: Machine, allocator: Allocator) -> str:
    """The lines above a table: the machine, and the settings of the processes that measure.

    Args:
        machine: on which they measure.
        allocator: of the processes that do not have the defaults.
    """
    settings = _settings(ALLOCATORS[allocator])
    other = f", but where the table says {allocator}: {settings}" if settings else ""
    return (
        f"{machine.description}\nThe allocator has its defaults{other}. "
        f"Threads of OpenMP sleep when they wait: {_settings(SLEEPING)}.\n"
    )


def _settings(environment: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in environment.items())


def call[**P, Result](
    function: Callable[P, Result], allocator: Allocator, *args: P.args, **kwargs: P.kwargs
) -> Result:
    """The result of a call in a process of its own; raises what the function raises.

    Threads of OpenMP sleep there when they wait (``SLEEPING``).

    Args:
        function: of a module, so that the process finds it.
        allocator: of the process, whatever the settings of this one are; see ``ALLOCATORS``.
        args: of the function, pickled as its result is.
        kwargs: of the function.
    """
    context = multiprocessing.get_context("spawn")
    environment = {**SLEEPING, **ALLOCATORS[allocator]}
    with _environment(environment), ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args, **kwargs).result()


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Sets the environment of processes that start; that of this one has been read."""
    names = [
        name
        for name in os.environ
        if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" or name in SLEEPING
    ]
    before = {name: os.environ.pop(name) for name in names}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in settings:
            os.environ.pop(name, None)
        os.environ.update(before)
