"""Calls functions in separate processes, which differ in how memory is allocated.

By default, glibc maps every block above 32 MB separately and unmaps it when it is freed. A program
that allocates its results in each call then spends its time on page faults. Environment variables
can change this; glibc reads them when a process starts.

PyTorch computes with OpenMP, whose threads keep spinning after a computation, on the cores on which
the next function is timed. In these processes they sleep.
"""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from platform import libc_ver
from typing import Literal

from experiments.benchmarks.machine import Machine

# Environment variables by the behaviour of glibc's allocator: its defaults; keeping freed memory;
# or using huge pages, of which a large block needs few.
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
# The first variable is defined by OpenMP, the second by Intel's and LLVM's libraries.
SLEEPING = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


def or_defaults(allocator: Allocator, platform: str) -> Allocator:
    """The allocator, or ``"defaults"`` if glibc does not allocate the arrays of JAX's platform."""
    return allocator if platform == "cpu" and libc_ver()[0] == "glibc" else "defaults"


def header(machine: Machine, allocator: Allocator) -> str:
    """The lines above a table: the machine, and the settings of the measuring processes.

    Args:
        machine: the machine that runs the benchmark.
        allocator: the allocator of the processes that do not use the defaults.
    """
    settings = _settings(ALLOCATORS[allocator])
    other = f", except where the table says {allocator}: {settings}" if settings else ""
    return (
        f"{machine.description}\nThe allocator has its defaults{other}. "
        f"Threads of OpenMP sleep when they wait: {_settings(SLEEPING)}.\n"
    )


def _settings(environment: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in environment.items())


def call[**P, Result](
    function: Callable[P, Result], allocator: Allocator, *args: P.args, **kwargs: P.kwargs
) -> Result:
    """Calls a function in a separate process; returns its result or raises its exception.

    Threads of OpenMP sleep there when they wait (``SLEEPING``).

    Args:
        function: function at the top level of a module, so that the process can import it.
        allocator: key of ``ALLOCATORS``, which replaces the allocator settings of this process.
        args: positional arguments of the function. They and the result are pickled.
        kwargs: keyword arguments of the function.
    """
    context = multiprocessing.get_context("spawn")
    environment = {**SLEEPING, **ALLOCATORS[allocator]}
    with _environment(environment), ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args, **kwargs).result()


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables for processes that start within the block."""
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
