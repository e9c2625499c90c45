"""Calls of functions in processes of their own, which differ in how memory is allocated.

By default, glibc maps every block above 32 MB anew and gives it back when it is freed, so that a
program which allocates its results in each call spends its time on page faults. Its environment can
make a process keep what is freed; it is read when the process starts.
"""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from platform import libc_ver

KEPT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
}


def can_keep_memory(platform: str) -> bool:
    """Whether arrays on a platform of JAX are in memory that the settings of ``KEPT`` are for."""
    return platform == "cpu" and libc_ver()[0] == "glibc"


def allocator(keep_memory: bool) -> str:
    """How the allocators of the processes are set, for the line above a table."""
    if not keep_memory:
        return "The allocator has its defaults."
    settings = " ".join(f"{name}={value}" for name, value in KEPT.items())
    return f"The allocator has glibc's defaults, and where memory is kept {settings}."


def call[**P, Result](
    function: Callable[P, Result], keep_memory: bool, *args: P.args, **kwargs: P.kwargs
) -> Result:
    """The result of a call in a process of its own; raises what the function raises.

    Args:
        function: of a module, so that the process finds it.
        keep_memory: whether the process keeps memory that it frees (``KEPT``), or has the defaults
            of its allocator, whatever the settings of this process are.
        args: of the function, pickled as its result is.
        kwargs: of the function.
    """
    context = multiprocessing.get_context("spawn")
    with _allocator(keep_memory), ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args, **kwargs).result()


@contextlib.contextmanager
def _allocator(keep_memory: bool) -> Iterator[None]:
    """Sets the environment of processes that start; that of this one has been read."""
    names = [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]
    before = {name: os.environ.pop(name) for name in names}
    os.environ.update(KEPT if keep_memory else {})
    try:
        yield
    finally:
        for name in KEPT:
            os.environ.pop(name, None)
        os.environ.update(before)
