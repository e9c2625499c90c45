import dataclasses
import functools
import math
import re

import jax
import pytest
from carafe_kernels import mosaic_gpu
from carafe_kernels.geometry import Geometry
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import carafe_jax
from tests.kernels.cases import Case
from tests.kernels.from_logits import carafe_and_gradients
from tests.kernels.gpus import H100, case_of, have_devices, have_proven
from tests.kernels.mosaic_gpu_lowering import lowered, tensor_sizes
from tests.kernels.sharding import each_axis_type, over_the_batch
from tests.slow import slow


@pytest.fixture(autouse=True)
def single_kernels():
    """One kernel for each contraction, whatever is fastest on a GPU: these tests count them."""
    with mosaic_gpu.using(forward="multiply_add", gradients="apart"):
        yield


def shapes(case, dtype, with_weights=False):
    kernels = case.weights_shape if with_weights else case.logits_shape
    return [jax.ShapeDtypeStruct(s, dtype) for s in (case.x_shape, kernels, case.y_shape)]


def named_kernels(text):
    """The names of the kernels, one for each call."""
    calls = [line for line in text.splitlines() if "custom_call @mosaic_gpu" in line]
    names = ("carafe_forward", "carafe_input_gradient", "carafe_weight_gradient")
    return [name for line in calls for name in names if name in line]


REAL = [
    slow(Case(5, up=2, size=(200, 336), batch=8, group_channels=256), "9.0", "float32"),
    slow(Case(5, up=2, size=(200, 336), batch=8, group_channels=256), "10.0", "bfloat16"),
    (Case(5, down=2, size=(200, 336), batch=8, group_channels=2048), "9.0", "bfloat16"),
    slow(Case(5, down=2, size=(200, 336), batch=8, group_channels=2048), "10.0", "float32"),
]


@pytest.mark.parametrize(("case", "capability", "dtype"), REAL, ids=str)
def test_real_sizes_lower_to_each_kernel_once_and_to_no_patches(case, capability, dtype):
    run = carafe_and_gradients(case, "softmax", "mosaic_gpu")
    text = lowered(run, *shapes(case, dtype), capability=capability)
    assert sorted(named_kernels(text)) == [
        "carafe_forward",
        "carafe_input_gradient",
        "carafe_weight_gradient",
    ]
    largest = max(math.prod(shape) for shape in (case.x_shape, case.y_shape))
    assert max(tensor_sizes(text)) == largest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("geometry", "dtype"),
    [
        (Geometry(3, up=2, groups=2), "float32"),
        (Geometry(5, up=2), "float16"),
        (Geometry(7, up=2), "bfloat16"),
        (Geometry(5, up=3), "float32"),
        (Geometry(3, up=4), "bfloat16"),
        (Geometry(3, down=2), "float32"),
        (Geometry(5, down=2, groups=2), "bfloat16"),
        (Geometry(7, down=2), "float32"),
        (Geometry(5, down=3), "bfloat16"),
    ],
    ids=str,
)
def test_geometries_lower_with_logits(geometry, dtype):
    case = Case(**dataclasses.asdict(geometry), size=(25, 42), group_channels=100)
    run = carafe_and_gradients(case, "sigmoid", "mosaic_gpu")
    assert len(named_kernels(lowered(run, *shapes(case, dtype)))) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "geometry",
    [Geometry(5, up=2), Geometry(3, up=3, groups=2), Geometry(5, up=4), Geometry(7, down=3)],
    ids=str,
)
def test_geometries_lower_with_weights(geometry):
    case = Case(**dataclasses.asdict(geometry), size=(25, 42), group_channels=64)
    operator = functools.partial(carafe_jax.reassemble, implementation="mosaic_gpu", **case.options)

    def run(x, weights, dy):
        y, vjp = jax.vjp(operator, x, weights)
        return y, *vjp(dy)

    assert len(named_kernels(lowered(run, *shapes(case, "float32", with_weights=True)))) == 3


def test_exports_for_cuda_without_a_gpu():
    case = Case(5, up=2, group_channels=64)
    operator = functools.partial(carafe_jax.carafe, implementation="mosaic_gpu", **case.options)
    exported = jax.export.export(jax.jit(operator), platforms=["cuda"])(
        *shapes(case, "float32")[:2]
    )
    restored = jax.export.deserialize(exported.serialize())
    assert restored.platforms == ("cuda",)
    assert restored.out_avals[0].shape == case.y_shape
    assert "mosaic_gpu" in restored.mlir_module()


@pytest.mark.parametrize("transform", ["pmap", "shard_map"])
def test_each_device_runs_the_kernel_on_its_shard(transform):
    devices = jax.local_device_count()
    case = Case(5, up=2, batch=devices, group_channels=64)
    operator = functools.partial(carafe_jax.carafe, implementation="mosaic_gpu", **case.options)
    operands = shapes(case, "float32")[:2]
    if transform == "pmap":
        split = [jax.ShapeDtypeStruct((devices, 1, *s.shape[1:]), s.dtype) for s in operands]
        traced = jax.jit(jax.pmap(operator)).trace(*split)
    else:
        mesh = jax.make_mesh((devices,), ("data",))
        spec = jax.sharding.PartitionSpec("data")
        mapped = jax.shard_map(operator, mesh=mesh, in_specs=spec, out_specs=spec)
        sharding = jax.sharding.NamedSharding(mesh, spec)
        split = [jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding) for s in operands]
        traced = jax.jit(mapped).trace(*split)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    (call,) = [line for line in text.splitlines() if "custom_call @mosaic_gpu" in line]
    assert "tensor<1x6x1x7x64xf32>" in call


@each_axis_type
def test_kernels_compute_shards_of_a_sharded_batch(axis_type):
    """Automatic axes are partitioned after lowering; `test_partitioning.py` tests the result."""
    devices = jax.local_device_count()
    case = Case(5, up=2, batch=devices, group_channels=64)
    sharding = over_the_batch(axis_type)
    operands = [
        jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding) for s in shapes(case, "float32")
    ]
    run = jax.jit(carafe_and_gradients(case, "softmax", "mosaic_gpu"))
    text = run.trace(*operands).lower(lowering_platforms=("cuda",)).as_text()
    partitioned_later = text.count("@CustomSPMDPartitioning")
    calls = [line for line in text.splitlines() if "custom_call @mosaic_gpu" in line]
    if axis_type == AxisType.Auto:
        assert (len(calls), partitioned_later) == (0, 3)
    else:
        assert (len(calls), partitioned_later) == (3, 0)
        assert all("tensor<1x6x1x7x64xf32>" in call for call in calls)


@pytest.mark.parametrize("implementation", ["mosaic_gpu", None])
def test_a_vmap_too_large_for_32_bit_indices_is_a_loop(monkeypatch, implementation):
    case = Case(1, down=2, size=(2**10, 2**6), batch=1, group_channels=2**6)
    have_devices(monkeypatch, H100)
    proof = case_of(case.options, "carafe", dtypes=("bfloat16", "bfloat16"))
    have_proven(monkeypatch, proof)
    examples = 2**9
    several = [
        jax.ShapeDtypeStruct((examples, *s.shape), s.dtype) for s in shapes(case, "bfloat16")
    ]
    assert math.prod(several[0].shape) == 2**31
    text = lowered(jax.vmap(carafe_and_gradients(case, "softmax", implementation)), *several)
    assert text.count("stablehlo.while") == 3
    # All examples but one have fewer than 2**31 elements: one call for them, and one for the last.
    calls = [line for line in text.splitlines() if "custom_call @mosaic_gpu" in line]
    sizes = [set(map(int, re.findall(r"tensor<(\d+)x\d+x[\dx]*bf16>", call))) for call in calls]
    assert sizes.count({examples - 1}) == sizes.count({1}) == 3


def shapes_with_sharded_channels(form, case):
    """Shapes of maps with sharded channels, and of replicated weights or logits."""
    mesh = over_the_batch(AxisType.Explicit).mesh
    channels = NamedSharding(mesh, PartitionSpec(None, None, None, "data"))
    return [
        jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding)
        for s, sharding in zip(
            shapes(case, "float32", with_weights=form == "reassemble"),
            (channels, NamedSharding(mesh, PartitionSpec()), channels),
            strict=True,
        )
    ]


@pytest.mark.parametrize(("form", "groups"), [("carafe", 1), ("reassemble", 1), ("reassemble", 4)])
def test_kernels_compute_shards_of_sharded_channels(form, groups):
    # Copies can address this number of columns, so nothing is padded.
    case = Case(3, up=2, size=(6, 8), groups=groups, group_channels=256 // groups)
    operator = functools.partial(
        getattr(carafe_jax, form), implementation="mosaic_gpu", **case.options
    )

    def run(x, weights, dy):
        y, pullback = jax.vjp(operator, x, weights)
        return y, *pullback(dy)

    traced = jax.jit(run).trace(*shapes_with_sharded_channels(form, case))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    calls = [line for line in text.splitlines() if "custom_call @mosaic_gpu" in line]
    assert len(calls) == 3
    shard_sizes = {
        math.prod(case.x_shape) // 4,
        math.prod(case.y_shape) // 4,
        math.prod(case.logits_shape) // groups,  # the weights of one group
    }
    assert [{n for n in tensor_sizes(call) if n > 100} for call in calls] == [shard_sizes] * 3
    # The gradient of replicated weights is a sum over the devices.
    assert text.count("stablehlo.all_reduce") == (1 if groups == 1 else 0)
