"""What a machine is, and what its memory can do."""

import importlib.metadata
import shutil
import subprocess

import jax
from carafe_kernels.mosaic_gpu.device import device_reason

from experiments.benchmarks.gpu.child import Tell
from experiments.benchmarks.gpu.timing import copy_bandwidth, dispatch_microseconds

_PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "flax", "numpy", "torch")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    """The driver, the clocks' limits and what else uses the card, as ``nvidia-smi`` says."""
    if shutil.which("nvidia-smi") is None:
        return None
    fields = "driver_version,memory.total,clocks.max.sm,power.limit"
    try:
        completed = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):  # the run needs none of this
        return None
    return completed.stdout.strip().splitlines()[0] if completed.stdout.strip() else None


def card(tell: Tell, any_device: bool) -> str:
    """Card, driver and versions; raises ``NotImplementedError`` if the kernels do not serve it.

    Nothing has been measured before a device is found.
    """
    tell.stage("asking for devices")
    device = jax.devices()[0]
    if not any_device and (reason := device_reason(device)):
        raise NotImplementedError(reason)
    versions = {name: found for name in _PACKAGES if (found := _version(name))}
    capability = getattr(device, "compute_capability", None)
    tell.measured(card=device.device_kind, capability=capability, versions=versions)
    driver = _driver()
    tell.measured(driver=driver)
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{device.device_kind}, capability {capability}, driver {driver}; {named}"


def ceilings(tell: Tell, small: bool) -> str:
    """The bandwidth of a copy, and what a call costs that does nothing."""
    tell.running("copies")
    bandwidth = copy_bandwidth(2**20) if small else copy_bandwidth()
    tell.measured(bandwidth=bandwidth)
    tell.running("calls that do nothing")
    dispatch = dispatch_microseconds()
    tell.measured(dispatch_microseconds=dispatch)
    return f"{bandwidth / 1e12:.2f} TB/s copied, {dispatch:.1f} us a call"
