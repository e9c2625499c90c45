"""Registers, spills and memory of the GPU kernels, compiled without a GPU.

Needs the CUDA plugin and disassembler, some 4 GB, so best an environment of its own::

    python -m venv .venv-cuda
    .venv-cuda/bin/pip install "jax[cuda13]" flax nvidia-cuda-nvdisasm jaxtyping
    export JAX_PLATFORMS=cpu PYTHONPATH=.:kernels
    .venv-cuda/bin/python -m experiments.benchmarks.machine_code

Prints two Markdown tables, of the kernels and of what whole operators allocate, and exits with 1 if
any kernel spills.
"""

import contextlib
import functools
import itertools
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from carafe_jax.differentiation import Implementation
from experiments.benchmarks.calls import kernel_calls, operator, with_gradients
from experiments.benchmarks.cases import Case

# What the compiler asks of an H100 SXM: NVIDIA's data sheet, and the CUDA programming guide's
# table of compute capability 9.0.
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


def _case(*, channels: int = 256, **options: Any) -> Case:
    """A case in which only its kind matters: programs hardly depend on the size of maps."""
    return Case(2, 48, 64, channels, **options)


def label(case: Case) -> str:
    """Of a row."""
    scale = f"up {case.up}" if case.up > 1 else f"down {case.down}"
    groups = f", {case.groups} groups" if case.groups > 1 else ""
    source = f"{case.normalizer} of" if case.normalizer else "weights in"
    return (
        f"{scale}, k={case.kernel_size}{groups}, C={case.channels}, {case.dtype}, "
        f"{source} {case.kernels_dtype}"
    )


CASES = (
    *(
        _case(**scale, dtype=dtype)
        for scale in ({"up": 2}, {"down": 2})
        for dtype in ("float32", "bfloat16")
    ),
    *(
        _case(**scale, dtype=dtype, normalizer="softmax")
        for scale in ({"up": 2}, {"down": 2})
        for dtype in ("float32", "bfloat16", "float16")
    ),
    _case(up=2, normalizer="sigmoid_normalized"),
    _case(kernel_size=3, up=2, normalizer="softmax"),
    _case(kernel_size=7, up=2, normalizer="softmax"),
    _case(up=3, normalizer="softmax"),
    _case(up=4),
    _case(kernel_size=7, up=4),
    _case(down=3, normalizer="softmax"),
    _case(kernel_size=7, down=2, normalizer="softmax"),
    _case(up=2, groups=2, dtype="bfloat16", normalizer="softmax"),
    _case(down=2, normalizer="softmax", channels=16),
)

MEMORY_CASES = tuple(
    _case(**scale, dtype=dtype, channels=channels)
    for scale, channels in (({"up": 2}, 256), ({"down": 2}, 64))
    for dtype in ("float32", "bfloat16")
)

type _Shape = Callable[..., jax.ShapeDtypeStruct]
type _Shapes = tuple[jax.ShapeDtypeStruct, ...]


def shapes(case: Case, shape: _Shape) -> dict[str, jax.ShapeDtypeStruct]:
    """Of the operands of a case, by name."""
    return {
        "x": shape(case.x_shape, case.dtype),
        "kernels": shape(case.kernels_shape, case.kernels_dtype),
        "dy": shape(case.y_shape, case.dtype),
    }


@contextlib.contextmanager
def _dumps_in(folder: str) -> Iterator[None]:
    variables = {"DUMP_TO": folder, "DUMP_PTXAS": "1", "DUMP_SASS": "1"}
    variables = {f"MOSAIC_GPU_{name}": value for name, value in variables.items()}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def report(function: Callable[..., jax.Array], arguments: _Shapes) -> dict[str, int]:
    """Compiles, and reads what the compiler says about the one kernel."""
    with tempfile.TemporaryDirectory() as folder:
        with _dumps_in(folder):
            jax.jit(function).lower(*arguments).compile()
        (ptxas,) = Path(folder).glob("*.ptxas")
        (resources,) = Path(folder).glob("*.resources.txt")
        (sass,) = Path(folder).glob("*.sass_ctrl")
        text = ptxas.read_text()
        code = sass.read_text()
        return {
            "registers": sum(map(int, re.findall(r"Used (\d+) registers", text))),
            "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", text))),
            "shared": sum(map(int, re.findall(r"smem_scratch_bytes=(\d+)", resources.read_text()))),
            "ffma": len(re.findall(r"\bFFMA\b", code)),
            "lds": len(re.findall(r"\bLDS\b", code)),
        }


def temporaries(case: Case, implementation: Implementation, shape: _Shape) -> float:
    """What an operator with its gradients allocates, in units of x, weights and y together."""
    arguments = shapes(case, shape).values()
    run = jax.jit(with_gradients(operator(case, implementation)))
    analysis = run.lower(*arguments).compile().memory_analysis()
    assert analysis is not None, "the CUDA compiler analyses memory"
    own = sum(math.prod(a.shape) * a.dtype.itemsize for a in arguments)
    return analysis.temp_size_in_bytes / own


def print_kernels(shape: _Shape) -> bool:
    """Prints the table of kernels; returns whether any spilled."""
    print("| | kernel | registers | spilled, B | shared memory, B | FFMA | LDS |")
    print("|---|---|---:|---:|---:|---:|---:|")
    spilled = False
    for case in CASES:
        operands = shapes(case, shape)
        for name, call in kernel_calls(case).items():
            row = report(call.function, tuple(operands[each] for each in call.operands))
            spilled |= row["spilled"] > 0
            first = label(case) if name == "forward" else ""
            print(f"| {first} | {name} |", " | ".join(map(str, row.values())), "|", flush=True)
    return spilled


def print_temporaries(shape: _Shape) -> None:
    """Prints the table of what operators with their gradients allocate."""
    print("\n| temporaries / (x+w+y) | `mosaic_gpu` | `xla` |\n|---|---:|---:|")
    for case, normalizer in itertools.product(MEMORY_CASES, ("softmax", None)):
        one = case.replace(normalizer=normalizer)
        shares = (f"{temporaries(one, name, shape):.2f}" for name in ("mosaic_gpu", "xla"))
        scale = f"up {case.up}" if case.up > 1 else f"down {case.down}"
        print(f"| `{one.operator}`, {scale}, C={case.channels}, {case.dtype} |",
              " | ".join(shares), "|")  # fmt: skip


def main() -> None:
    """Prints the tables."""
    topology = topologies.get_topology_desc(
        "h100", platform="cuda", target_config=H100, topology="1x1x1"
    )
    sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])
    shape = functools.partial(jax.ShapeDtypeStruct, sharding=sharding)
    spilled = print_kernels(shape)
    print_temporaries(shape)
    sys.exit(1 if spilled else 0)


if __name__ == "__main__":
    main()
