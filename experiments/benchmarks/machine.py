"""The machine that times are taken on: what it is, and what it could do."""

import dataclasses
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments.benchmarks.timing import Program, Timing

_COPY, _PRODUCT = "copy", "matrix product"
_COPIED_BYTES = 64 * 10**6
_SIDE = 2048


@dataclasses.dataclass(frozen=True)
class Machine:
    """A device, and the libraries that are timed on it.

    Attributes:
        platform: of JAX.
        description: in words, for the line above a table.
    """

    platform: str
    description: str


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a function of the machine can reach at most.

    Attributes:
        bytes_per_second: read and written, by the copy of an array of 64 MB.
        flops_per_second: by the product of two float32 matrices of 2048x2048.
    """

    bytes_per_second: float
    flops_per_second: float


def cores() -> int:
    """Those that this process may run on, each of which has a thread of JAX."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """What the processor calls itself, or ``"CPU"`` where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names[0] if names else platform.processor()) or "CPU"


def this_machine() -> Machine:
    """The device that JAX takes by default. JAX may take its memory to find out."""
    device = jax.devices()[0]
    is_cpu = device.platform == "cpu"
    what = f"{cpu_name()}, {cores()} cores" if is_cpu else device.device_kind
    return Machine(jax.default_backend(), f"{what}, JAX {jax.__version__}")


def limit_programs() -> dict[str, Program]:
    """What :func:`limits` are measured by, to be timed beside other functions."""
    vector = jnp.ones(_COPIED_BYTES // 4, jnp.float32)
    matrix = jnp.ones((_SIDE, _SIDE), jnp.float32)
    return {
        _COPY: Program(lambda array: array + 1, (vector,)),
        _PRODUCT: Program(lambda a: jnp.matmul(a, a, precision="highest"), (matrix,)),
    }


def limits(times: Mapping[str, Timing]) -> Limits:
    """The limits, from the times of :func:`limit_programs`."""
    copy, product = (1e-3 * times[name].milliseconds for name in (_COPY, _PRODUCT))
    return Limits(2 * _COPIED_BYTES / copy, 2 * _SIDE**3 / product)
