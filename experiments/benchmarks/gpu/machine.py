"""Describes the GPU, and measures its memory bandwidth."""

import importlib.metadata
import shutil
import subprocess

import jax
from carafe_kernels.mosaic_gpu.device import device_reason

from experiments.benchmarks.gpu.child import Reporter
from experiments.benchmarks.gpu.timing import copy_bandwidth, dispatch_microseconds

_PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "flax", "numpy", "torch")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    """Driver version, memory, maximum clock and power limit, from ``nvidia-smi``."""
    if shutil.which("nvidia-smi") is None:
        return None
    fields = "driver_version,memory.total,clocks.max.sm,power.limit"
    try:
        completed = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):  # the run does not need this information
        return None
    return completed.stdout.strip().splitlines()[0] if completed.stdout.strip() else None


def card(reporter: Reporter, any_device: bool) -> str:
    """Reports GPU, driver and versions.

    It sends no measurement before a device is found.

    Raises:
        NotImplementedError: the kernels do not support the device.
    """
    reporter.stage("asking for devices")
    device = jax.devices()[0]
    if not any_device and (reason := device_reason(device)):
        raise NotImplementedError(reason)
    versions = {name: found for name in _PACKAGES if (found := _version(name))}
    capability = getattr(device, "compute_capability", None)
    reporter.measured(card=device.device_kind, capability=capability, versions=versions)
    driver = _driver()
    reporter.measured(driver=driver)
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{device.device_kind}, capability {capability}, driver {driver}; {named}"


def ceilings(reporter: Reporter, small: bool) -> str:
    """Measures the bandwidth of a copy, and the time of a call that does nothing."""
    reporter.running("copies")
    bandwidth = copy_bandwidth(2**20) if small else copy_bandwidth()
    reporter.measured(bandwidth=bandwidth)
    reporter.running("calls that do nothing")
    dispatch = dispatch_microseconds()
    reporter.measured(dispatch_microseconds=dispatch)
    return f"{bandwidth / 1e12:.2f} TB/s copied, {dispatch:.1f} us a call"
