"""Mock GPUs, and calls that count as proven on them."""

from unittest import mock

import jax
from carafe_kernels import choice, proven
from carafe_kernels.geometry import Geometry


def gpu(kind, capability):
    return mock.Mock(jax.Device, platform="gpu", device_kind=kind, compute_capability=capability)


A100 = gpu("NVIDIA A100-SXM4-40GB", "8.0")
H100 = gpu("NVIDIA H100 80GB HBM3", "9.0")
B200 = gpu("NVIDIA B200", "10.0")
MI300X = gpu("AMD Instinct MI300X", "gfx942")
RTX_5090 = gpu("NVIDIA GeForce RTX 5090", "12.0")


def have_devices(monkeypatch, *devices):
    """Makes these the devices of this process, as the choice of an implementation sees them."""
    monkeypatch.setattr(choice, "devices_of_process", lambda: list(devices))


def case_of(options, form, *, capability="9.0", dtypes=("float32", "float32"), channels=(1, 512)):
    """The table entry by which calls of `form` with `options` are proven."""
    normalizer = "softmax" if form == "carafe" else None
    return proven.Proven(
        "mosaic_gpu", capability, Geometry(**options), *dtypes, normalizer, channels
    )


def have_proven(monkeypatch, *cases):
    monkeypatch.setattr(proven, "TABLE", cases)
