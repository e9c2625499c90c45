"""Registers, spills and memory of the GPU kernels, compiled without a GPU.

Needs the CUDA plugin and disassembler, some 4 GB, so best an environment of its own::

    python -m venv .venv-cuda
    .venv-cuda/bin/pip install "jax[cuda13]" flax nvidia-cuda-nvdisasm jaxtyping
    export JAX_PLATFORMS=cpu PYTHONPATH=.:kernels
    .venv-cuda/bin/python -m experiments.benchmarks.machine_code

Prints Markdown tables, of the kernels, of variants of the forward pass and of what whole operators
allocate, and exits with 1 if any kernel spills.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from carafe_kernels import mosaic_gpu
from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu.settings import DEFAULT_SETTINGS
from jax.experimental import topologies

import carafe_jax

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


@dataclasses.dataclass(frozen=True)
class Case:
    """Kernels for maps of one kind.

    Attributes:
        geometry: shape of the reassembly.
        dtype: of the map.
        weights_dtype: of the weights or logits.
        normalizer: what logits become weights by, or ``None`` for weights.
        channels: of the map.
    """

    geometry: Geometry
    dtype: str = "float32"
    weights_dtype: str = "float32"
    normalizer: str | None = None
    channels: int = 256

    def __str__(self) -> str:
        """A row's label."""
        g = self.geometry
        scale = f"up {g.up}" if g.up > 1 else f"down {g.down}"
        groups = f", {g.groups} groups" if g.groups > 1 else ""
        source = f"{self.normalizer} of" if self.normalizer else "weights in"
        return (
            f"{scale}, k={g.kernel_size}{groups}, C={self.channels}, {self.dtype}, "
            f"{source} {self.weights_dtype}"
        )


CASES = (
    *(
        Case(Geometry(5, up, down), dtype, "float32")
        for up, down in ((2, 1), (1, 2))
        for dtype in ("float32", "bfloat16")
    ),
    *(
        Case(Geometry(5, up, down), dtype, dtype, "softmax")
        for up, down in ((2, 1), (1, 2))
        for dtype in ("float32", "bfloat16", "float16")
    ),
    Case(Geometry(5, 2), normalizer="sigmoid_normalized"),
    Case(Geometry(3, 2), normalizer="softmax"),
    Case(Geometry(7, 2), normalizer="softmax"),
    Case(Geometry(5, 3), normalizer="softmax"),
    Case(Geometry(5, 4)),
    Case(Geometry(7, 4)),
    Case(Geometry(5, 1, 3), normalizer="softmax"),
    Case(Geometry(7, 1, 2), normalizer="softmax"),
    Case(Geometry(5, 2, groups=2), "bfloat16", "bfloat16", "softmax"),
    Case(Geometry(5, 1, 2), normalizer="softmax", channels=16),
)
BATCH, SIZE = 2, (48, 64)

# Forward passes of which there are two kernels.
VARIANT_CASES = (
    Case(Geometry(5, 2), "bfloat16", "float32"),
    Case(Geometry(5, 2), "bfloat16", "bfloat16", "softmax"),
    Case(Geometry(5, 2), "float16", "float16", "softmax"),
    Case(Geometry(3, 2), "bfloat16", "float32"),
    Case(Geometry(3, 2), "bfloat16", "bfloat16", "softmax"),
    Case(Geometry(5, 2, groups=2), "bfloat16", "bfloat16", "softmax"),
)

MEMORY_CASES = tuple(
    Case(Geometry(5, up, down), dtype, channels=channels)
    for up, down, channels in ((2, 1, 256), (1, 2, 64))
    for dtype in ("float32", "bfloat16")
)

type _Shape = Callable[..., jax.ShapeDtypeStruct]
type _Shapes = tuple[jax.ShapeDtypeStruct, ...]


def kernels(
    case: Case, shape: _Shape, settings: mosaic_gpu.Settings = DEFAULT_SETTINGS
) -> Iterator[tuple[str, Callable[..., jax.Array], _Shapes]]:
    """Name, function and argument shapes of the three kernels of a case."""
    geometry, normalizer = case.geometry, case.normalizer
    out_size = tuple(map(geometry.output_size, SIZE))
    x = shape((BATCH, *SIZE, case.channels), case.dtype)
    y = shape((BATCH, *out_size, case.channels), case.dtype)
    if normalizer is None:
        weights = shape((BATCH, *out_size, geometry.weight_channels), case.weights_dtype)
        dtype = jnp.dtype(case.weights_dtype)
        yield "forward", lambda x, w: mosaic_gpu.forward(x, w, geometry, settings), (x, weights)
        yield (
            "dx",
            lambda w, y: mosaic_gpu.input_gradient(w, y, geometry, SIZE, settings),
            (weights, y),
        )
        yield (
            "dw",
            lambda x, y: mosaic_gpu.weight_gradient(x, y, geometry, dtype, settings),
            (x, y),
        )
    else:
        cells = tuple(map(geometry.cells, SIZE))
        logits = shape((BATCH, *cells, geometry.logit_channels), case.weights_dtype)
        yield (
            "forward",
            lambda x, w: mosaic_gpu.forward_from_logits(x, w, geometry, normalizer, settings),
            (x, logits),
        )
        yield (
            "dx",
            lambda w, y: mosaic_gpu.input_gradient_from_logits(
                w, y, geometry, SIZE, normalizer, settings
            ),
            (logits, y),
        )
        yield (
            "dlogits",
            lambda x, w, y: mosaic_gpu.logit_gradient(x, w, y, geometry, normalizer, settings),
            (x, logits, y),
        )


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


def report(
    function: Callable[..., jax.Array], arguments: _Shapes, *instructions: str
) -> dict[str, int]:
    """Compiles, and reads what the compiler says about the one kernel.

    Args:
        function: to compile.
        arguments: of it.
        instructions: patterns, of which the machine code is searched for each.
    """
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
            **{name: len(re.findall(rf"\b(?:{name})\b", code)) for name in instructions},
        }


def temporaries(form: str, implementation: str, case: Case, shape: _Shape) -> float:
    """What an operator with its gradients allocates, in units of x, weights and y together."""
    geometry = case.geometry
    operator = functools.partial(
        getattr(carafe_jax, form),
        kernel_size=geometry.kernel_size,
        up=geometry.up,
        down=geometry.down,
        implementation=implementation,
    )

    def run(x: jax.Array, weights: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
        y, pullback = jax.vjp(operator, x, weights)
        return y, *pullback(dy)

    out_size = tuple(map(geometry.output_size, SIZE))
    if form == "carafe":
        cells = tuple(map(geometry.cells, SIZE))
        weights = shape((BATCH, *cells, geometry.logit_channels), case.dtype)
    else:
        weights = shape((BATCH, *out_size, geometry.weight_channels), "float32")
    x = shape((BATCH, *SIZE, case.channels), case.dtype)
    dy = shape((BATCH, *out_size, case.channels), case.dtype)
    analysis = jax.jit(run).lower(x, weights, dy).compile().memory_analysis()
    assert analysis is not None, "the CUDA compiler analyses memory"
    own = sum(math.prod(a.shape) * a.dtype.itemsize for a in (x, weights, dy))
    return analysis.temp_size_in_bytes / own


def print_kernels(shape: _Shape) -> bool:
    """Prints the table of kernels; returns whether any spilled."""
    print("| | kernel | registers | spilled, B | shared memory, B | FFMA | LDS |")
    print("|---|---|---:|---:|---:|---:|---:|")
    spilled = False
    for case in CASES:
        for name, function, arguments in kernels(case, shape):
            row = report(function, arguments, "FFMA", "LDS")
            spilled |= row["spilled"] > 0
            label = case if name == "forward" else ""
            print(f"| {label} | {name} |", " | ".join(map(str, row.values())), "|", flush=True)
    return spilled


def print_variants(shape: _Shape) -> bool:
    """Prints the table of forward passes by variant; returns whether any spilled."""
    instructions = {
        "FFMA": "FFMA",
        "HMMA": "HMMA",
        "loads": "LDS|LDSM",
        "stores": "STS|STSM",
        "selects": "SEL|FSEL|PRMT",
        "barriers": "BAR",
    }
    heads = "registers", "spilled, B", "shared memory, B", *instructions
    print("\n| forward |", *heads, sep=" | ", end=" |\n")
    print("|---|---" + "|---:" * len(heads) + "|")
    spilled = False
    for case in VARIANT_CASES:
        for variant in ("multiply_add", "bands"):
            settings = mosaic_gpu.Settings(forward=variant)
            _, function, arguments = next(kernels(case, shape, settings))
            row = report(function, arguments, *instructions.values())
            spilled |= row["spilled"] > 0
            label = case if variant == "multiply_add" else ""
            print(f"| {label} | `{variant}` |", " | ".join(map(str, row.values())), "|", flush=True)
    return spilled


def print_temporaries(shape: _Shape) -> None:
    """Prints the table of what operators with their gradients allocate."""
    print("\n| temporaries / (x+w+y) | `mosaic_gpu` | `xla` |\n|---|---:|---:|")
    for case, form in itertools.product(MEMORY_CASES, ("carafe", "reassemble")):
        shares = (f"{temporaries(form, name, case, shape):.2f}" for name in ("mosaic_gpu", "xla"))
        scale = f"up {case.geometry.up}" if case.geometry.up > 1 else f"down {case.geometry.down}"
        print(f"| `{form}`, {scale}, C={case.channels}, {case.dtype} |", " | ".join(shares), "|")


def main() -> None:
    """Prints the tables."""
    topology = topologies.get_topology_desc(
        "h100", platform="cuda", target_config=H100, topology="1x1x1"
    )
    sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])
    shape = functools.partial(jax.ShapeDtypeStruct, sharding=sharding)
    spilled = print_kernels(shape)
    spilled |= print_variants(shape)
    print_temporaries(shape)
    sys.exit(1 if spilled else 0)


if __name__ == "__main__":
    main()
