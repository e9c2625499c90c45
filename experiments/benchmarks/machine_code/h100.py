"""Describes an H100 to compile for, on a machine without one."""

import functools
from collections.abc import Callable

import jax
from jax.experimental import topologies

# Properties of an H100 SXM that the compiler needs, from NVIDIA's data sheet and from the CUDA
# programming guide's table of compute capability 9.0.
H100 = """
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  device_memory_size: 84942979072
  device_address_bits: 64
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.10.0"
  cub_version: "3.1.2"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

type Shape = Callable[..., jax.ShapeDtypeStruct]


def gpus(count: int) -> list[jax.Device]:
    """``count`` GPUs of one process."""
    topology = topologies.get_topology_desc(
        "h100", platform="cuda", target_config=H100, topology=f"1x1x{count}"
    )
    return list(topology.devices)


def on_one_gpu() -> Shape:
    """A function from a shape and a dtype to the ``ShapeDtypeStruct`` of an array on one GPU."""
    sharding = jax.sharding.SingleDeviceSharding(gpus(1)[0])
    return functools.partial(jax.ShapeDtypeStruct, sharding=sharding)
