"""The devices that can run the kernels."""

import jax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from carafe_kernels.mosaic_gpu.settings import current_settings

# Hopper and datacenter Blackwell have TMA and 227 KiB of shared memory per block.
SUPPORTED_MAJORS = (9, 10)
NEEDS = "an NVIDIA GPU of compute capability 9.0 or 10.x, Hopper or datacenter Blackwell"


def device_reason(device: jax.Device | None) -> str | None:
    """Why a device cannot run the kernels; ``None`` if it can, or if no device is given."""
    if device is None or current_settings().interpret is not None:
        return None
    if device.platform != "gpu":
        return f"this device is a {device.platform.upper()}, but 'mosaic_gpu' needs {NEEDS}"
    capability = str(device.compute_capability)
    major = capability.partition(".")[0]
    if not major.isdigit() or int(major) not in SUPPORTED_MAJORS:
        return (
            f"{device.device_kind} has compute capability {capability}, "
            f"but 'mosaic_gpu' needs {NEEDS}"
        )
    return None


# The platform of a program is known when it is lowered, not when it is traced. With jax.export, no
# device of this process need be of that platform.
_on_cuda_p = Primitive("carafe_on_cuda")
_on_cuda_p.def_abstract_eval(lambda array: array)


def _refuse(context: mlir.LoweringRuleContext, array):
    del array
    platforms = context.module_context.platforms
    # For several platforms, JAX lowers all branches of platform_dependent for each platform.
    instead = (
        "implementation='xla' or None runs on this device"
        if len(platforms) == 1
        else "export for one platform at a time, or with implementation='xla'"
    )
    raise NotImplementedError(
        f"implementation 'mosaic_gpu' cannot run on {' or '.join(platforms)}: it needs {NEEDS}; "
        f"{instead}"
    )


mlir.register_lowering(_on_cuda_p, _refuse)
mlir.register_lowering(_on_cuda_p, lambda context, array: [array], platform="cuda")
batching.defvectorized(_on_cuda_p)


def on_cuda(array: jax.Array) -> jax.Array:
    """Returns ``array``; raises ``NotImplementedError`` if it is not lowered for CUDA alone."""
    return _on_cuda_p.bind(array)
