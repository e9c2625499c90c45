"""Calls of functions in processes of their own, which differ in how memory is allocated.

By default, glibc maps every block above 32 MB anew and gives it back when it is freed, so that a
program which allocates its results in each call spends its time on page faults. Its environment can
make a process keep what is freed; it is read when the process starts.

The threads of OpenMP, which PyTorch computes with, go on spinning after what they computed, on the
cores on which the next function is timed. In these processes they sleep.
"""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from platform import libc_ver

from experiments.benchmarks.machine import Machine

KEPT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
}
# The first is OpenMP's, the second that of Intel's and LLVM's libraries.
SLEEPING = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


def can_keep_memory(platform: str) -> bool:
    """Whether arrays on a platform of JAX are in memory that the settings of ``KEPT`` are for."""
    return platform == "cpu" and libc_ver()[0] == "glibc"


def above(machine: Machine, keep_memory: bool) -> str:
    """The lines above a table: the machine, and the settings of the processes that measure.

    Args:
        machine: on which they measure.
        keep_memory: whether some of them keep memory.
    """
    kept = f", and where memory is kept {_settings(KEPT)}" if keep_memory else ""
    return (
        f"{machine.description}\nThe allocator has its defaults{kept}. "
        f"Threads of OpenMP sleep when they wait: {_settings(SLEEPING)}.\n"
    )


def _settings(environment: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in environment.items())


def call[**P, Result](
    function: Callable[P, Result], keep_memory: bool, *args: P.args, **kwargs: P.kwargs
) -> Result:
    """The result of a call in a process of its own; raises what the function raises.

    Threads of OpenMP sleep there when they wait (``SLEEPING``).

    Args:
        function: of a module, so that the process finds it.
        keep_memory: whether the process keeps memory that it frees (``KEPT``), or has the defaults
            of its allocator, whatever the settings of this process are.
        args: of the function, pickled as its result is.
        kwargs: of the function.
    """
    context = multiprocessing.get_context("spawn")
    environment = {**SLEEPING, **(KEPT if keep_memory else {})}
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
