"""The shards on which each device calls an opaque function."""

import contextlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from carafe_kernels import xla
from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu.partitioning import on_shards
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.kernels.cases import Case
from tests.kernels.sharding import (
    each_axis_type,
    over_the_batch,
    replicated,
    run_and_collectives,
)
from tests.kernels.single import with_tuple, without_tuple

CASE = Case(3, up=2, size=(3, 4), batch=8)
FLOAT32 = jnp.dtype(jnp.float32)


@pytest.fixture
def calls():
    """The batch sizes with which the opaque function was called."""
    return []


@pytest.fixture
def opaque(calls):
    """An opaque function of a batch."""

    def function(x, weights):
        calls.append(x.shape[0])
        assert weights.shape[0] == x.shape[0]
        return xla.forward(x, weights, Geometry(**CASE.options), FLOAT32)

    run = on_shards(with_tuple(function), ("map", "weights"), ("map",), CASE.groups)
    return without_tuple(run)


@pytest.fixture
def operands():
    return CASE.random_operands()[:2]


@pytest.fixture
def expected(operands):
    return xla.forward(*map(jnp.asarray, operands), Geometry(**CASE.options), FLOAT32)


def assert_equal(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


# The batch


@each_axis_type
def test_each_device_calls_the_function_on_its_shard_of_the_batch(
    opaque, calls, operands, expected, axis_type
):
    devices = jax.local_device_count()
    sharding = over_the_batch(axis_type)
    sharded = jax.device_put(operands, sharding)
    y, moved = run_and_collectives(jax.jit(opaque), *sharded)
    assert calls[-1] == CASE.batch // devices
    assert y.sharding.is_equivalent_to(sharding, y.ndim)
    assert_equal(y, expected)
    assert not moved


@each_axis_type
def test_each_device_calls_the_function_on_the_whole_of_a_replicated_batch(
    opaque, calls, operands, expected, axis_type
):
    sharded = jax.device_put(operands, replicated(over_the_batch(axis_type)))
    assert_equal(jax.jit(opaque)(*sharded), expected)
    assert calls[-1] == CASE.batch


@each_axis_type
def test_shard_map_calls_the_function_on_each_shard(opaque, calls, operands, expected, axis_type):
    sharding = over_the_batch(axis_type)
    mapped = jax.shard_map(
        opaque, mesh=sharding.mesh, in_specs=sharding.spec, out_specs=sharding.spec
    )
    assert_equal(jax.jit(mapped)(*jax.device_put(operands, sharding)), expected)
    assert calls[-1] == CASE.batch // jax.local_device_count()


@each_axis_type
@pytest.mark.parametrize("in_context", [True, False])
@pytest.mark.parametrize("specs", [("a", "a"), ("a", None), (None, "a"), ("a", "b"), (None, None)])
def test_operands_are_resharded_to_a_common_batch_on_a_mesh_of_two_axes(
    opaque, calls, operands, expected, axis_type, in_context, specs
):
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(axis_type,) * 2)
    sharded = [
        jax.device_put(array, NamedSharding(mesh, P(spec)))
        for array, spec in zip(operands, specs, strict=True)
    ]
    with jax.sharding.set_mesh(mesh) if in_context else contextlib.nullcontext():
        assert_equal(jax.jit(opaque)(*sharded), expected)
    assert calls[-1] == (CASE.batch // 2 if any(specs) else CASE.batch)


@pytest.mark.parametrize("other", [AxisType.Auto, AxisType.Explicit])
def test_a_shard_map_over_one_of_two_axes_calls_the_function_on_each_shard(
    opaque, calls, operands, expected, other
):
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto, other))
    spec = P("a")
    mapped = jax.shard_map(opaque, mesh=mesh, in_specs=spec, out_specs=spec, axis_names={"a"})
    sharded = jax.device_put(operands, NamedSharding(mesh, spec))
    with jax.sharding.set_mesh(mesh):
        assert_equal(jax.jit(mapped)(*sharded), expected)
    assert calls[-1] == CASE.batch // 2


def test_a_mesh_with_an_automatic_and_an_explicit_axis(opaque, calls, operands, expected):
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto, AxisType.Explicit))
    sharded = [
        jax.device_put(array, NamedSharding(mesh, spec))
        for array, spec in zip(operands, (P("b"), P("a")), strict=True)
    ]
    with jax.sharding.set_mesh(mesh):
        assert_equal(jax.jit(opaque)(*sharded), expected)
    assert calls[-1] == CASE.batch // 2


def test_pmap_calls_the_function_on_each_shard(opaque, calls, operands, expected):
    devices = jax.local_device_count()
    split = [array.reshape(devices, -1, *array.shape[1:]) for array in operands]
    assert_equal(np.concatenate(jax.pmap(opaque)(*split)), expected)
    assert calls[-1] == CASE.batch // devices


# Channels


def partitioned(case, slot, shapes):
    """A contraction that is partitioned, and records the shapes of its shards in `shapes`."""
    geometry = Geometry(**case.options)

    def function(*arrays):
        shapes.append([array.shape for array in arrays])
        channels = next(a.shape[3] for a, r in zip(arrays, operands, strict=True) if r == "map")
        groups = max(1, case.groups * channels // case.x_shape[3])
        shard_geometry = Geometry(case.kernel_size, case.up, case.down, groups)
        match slot:
            case "y":
                return xla.forward(*arrays, shard_geometry, FLOAT32)
            case "x":
                return xla.input_gradient(*arrays, shard_geometry, case.size, FLOAT32)
            case "weights":
                return xla.weight_gradient(*arrays, shard_geometry, FLOAT32)

    operands, result = {
        "y": (("map", "weights"), "map"),
        "x": (("weights", "map"), "map"),
        "weights": (("map", "map"), "weights"),
    }[slot]
    return without_tuple(on_shards(with_tuple(function), operands, (result,), geometry.groups))


def arguments(case, slot):
    x, weights, dy = case.random_operands()
    return {"y": (x, weights), "x": (weights, dy), "weights": (x, dy)}[slot]


CHANNELS = P(None, None, None, "data")
ONE_GROUP = Case(3, up=2, size=(3, 4), group_channels=8)
FOUR_GROUPS = Case(3, up=2, size=(3, 4), groups=4)


@each_axis_type
@pytest.mark.parametrize("case", [ONE_GROUP, FOUR_GROUPS], ids=["1 group", "4 groups"])
@pytest.mark.parametrize("slot", ["y", "x", "weights"])
def test_each_device_calls_the_function_on_its_shard_of_the_channels(case, slot, axis_type):
    devices = jax.local_device_count()
    mesh = over_the_batch(axis_type).mesh
    operands = arguments(case, slot)
    weights = {"y": 1, "x": 0, "weights": None}[slot]
    sharded = [
        jax.device_put(array, NamedSharding(mesh, P() if i == weights else CHANNELS))
        for i, array in enumerate(operands)
    ]
    shapes = []
    actual, moved = run_and_collectives(jax.jit(partitioned(case, slot, shapes)), *sharded)
    split = [i != weights or case.groups > 1 for i in range(2)]
    assert shapes[-1] == [
        (*a.shape[:3], a.shape[3] // devices if s else a.shape[3])
        for a, s in zip(operands, split, strict=True)
    ]
    assert_equal(actual, partitioned(case, slot, [])(*map(jnp.asarray, operands)))
    # Only the weight gradient of a group that is sharded is summed over the devices.
    summed = slot == "weights" and case.groups == 1
    assert moved - {"all-gather"} == ({"all-reduce"} if summed else set())
    if slot != "weights":
        assert not moved
        assert actual.sharding.is_equivalent_to(NamedSharding(mesh, CHANNELS), actual.ndim)


@each_axis_type
@pytest.mark.parametrize("groups", [2, 3])
def test_channels_that_are_sharded_within_a_group_are_gathered(axis_type, groups):
    case = Case(3, up=2, size=(3, 4), groups=groups, group_channels=4)
    mesh = over_the_batch(axis_type).mesh
    operands = arguments(case, "y")
    sharded = [
        jax.device_put(array, NamedSharding(mesh, spec))
        for array, spec in zip(operands, (CHANNELS, P()), strict=True)
    ]
    shapes = []
    actual = jax.jit(partitioned(case, "y", shapes))(*sharded)
    assert shapes[-1] == [case.x_shape, case.weights_shape]
    assert_equal(actual, partitioned(case, "y", [])(*map(jnp.asarray, operands)))


def test_channels_that_do_not_divide_evenly_are_gathered():
    """Otherwise a device would add padding channels to the weight gradient."""
    case = Case(3, up=2, size=(3, 4), group_channels=6)
    mesh = over_the_batch(AxisType.Auto).mesh
    shapes = []
    gradient = partitioned(case, "weights", shapes)

    @jax.jit
    def run(x, y):
        uneven = NamedSharding(mesh, CHANNELS)
        return gradient(*(jax.lax.with_sharding_constraint(array, uneven) for array in (x, y)))

    operands = arguments(case, "weights")
    actual = run(*jax.device_put(operands, NamedSharding(mesh, P())))
    assert shapes[-1] == [case.x_shape, case.y_shape]
    assert_equal(actual, partitioned(case, "weights", [])(*map(jnp.asarray, operands)))


def test_weight_gradients_in_16_bits_are_summed_in_float32():
    """The lowered program shows it; the result does not, because a CPU sums in float32 anyway."""
    mesh = over_the_batch(AxisType.Explicit).mesh
    ones = jnp.ones((1, 1, 1, 4), jnp.bfloat16)
    run = on_shards(
        lambda x, y: (jnp.sum(x * y, axis=3, keepdims=True, dtype=x.dtype),),
        ("map", "map"),
        ("weights",),
        groups=1,
    )
    sharded = jax.device_put(ones, NamedSharding(mesh, CHANNELS))
    text = jax.jit(run).lower(sharded, sharded).as_text()
    (types,) = re.findall(r"stablehlo.all_reduce.*?\}\) : \((.*?)\)", text, re.DOTALL)
    assert types == "tensor<1x1x1x1xf32>"


@each_axis_type
@pytest.mark.parametrize("case", [ONE_GROUP, FOUR_GROUPS], ids=["1 group", "4 groups"])
def test_each_result_has_the_sharding_of_its_role(case, axis_type):
    x, weights, dy = map(jnp.asarray, case.random_operands())
    expected = partitioned(case, "x", [])(weights, dy), partitioned(case, "weights", [])(x, dy)

    def function(x, weights, dy):
        groups = weights.shape[3] // case.kernel_size**2
        shard_geometry = Geometry(case.kernel_size, case.up, case.down, groups)
        dx = xla.input_gradient(weights, dy, shard_geometry, case.size, FLOAT32)
        return dx, xla.weight_gradient(x, dy, shard_geometry, FLOAT32)

    run = on_shards(function, ("map", "weights", "map"), ("map", "weights"), case.groups)
    mesh = over_the_batch(axis_type).mesh
    by_group = CHANNELS if case.groups > 1 else P()
    sharded = [
        jax.device_put(array, NamedSharding(mesh, spec))
        for array, spec in zip((x, weights, dy), (CHANNELS, by_group, CHANNELS), strict=True)
    ]
    actual = jax.jit(run)(*sharded)
    for value, desired in zip(actual, expected, strict=True):
        assert_equal(value, desired)
    # With automatic axes, the partitioner decides the sharding of the weight gradient.
    assert actual[0].sharding.is_equivalent_to(NamedSharding(mesh, CHANNELS), 4)
