"""Describes the machine that runs the benchmarks, and measures its limits."""

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
        platform: name of the JAX platform.
        description: device and versions in words, printed above a table.
    """

    platform: str
    description: str


@dataclasses.dataclass(frozen=True)
class Limits:
    """Rates of the machine, with which the rates of other functions are compared.

    Attributes:
        bytes_per_second: bytes that a copy of an array of 64 MB reads and writes in a second.
        flops_per_second: operations per second of a product of two float32 matrices of 2048x2048.
    """

    bytes_per_second: float
    flops_per_second: float


def cores() -> int:
    """Number of cores that this process may use. JAX has one thread for each."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """Name of the processor, or ``"CPU"`` if it is not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names[0] if names else platform.processor()) or "CPU"


def this_machine() -> Machine:
    """Describes JAX's default device. This initialises JAX, which may reserve device memory."""
    device = jax.devices()[0]
    is_cpu = device.platform == "cpu"
    name = f"{cpu_name()}, {cores()} cores" if is_cpu else device.device_kind
    return Machine(jax.default_backend(), f"{name}, JAX {jax.__version__}")


def limit_programs() -> dict[str, Program]:
    """The programs that :func:`limits` needs, to be timed in turn with other functions."""
    vector = jnp.ones(_COPIED_BYTES // 4, jnp.float32)
    matrix = jnp.ones((_SIDE, _SIDE), jnp.float32)
    return {
        _COPY: Program(lambda array: array + 1, (vector,)),
        _PRODUCT: Program(lambda a: jnp.matmul(a, a, precision="highest"), (matrix,)),
    }


def limits(times: Mapping[str, Timing]) -> Limits:
    """The limits that follow from the times of :func:`limit_programs`."""
    copy, product = (1e-3 * times[name].milliseconds for name in (_COPY, _PRODUCT))
    return Limits(2 * _COPIED_BYTES / copy, 2 * _SIDE**3 / product)
