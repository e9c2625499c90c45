import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from carafe_kernels import xla
from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu.batching import along_the_batch
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.kernels.cases import Case
from tests.kernels.sharding import collectives, each_axis_type, over_the_batch, replicated

CASE = Case(3, up=2, size=(3, 4), batch=8)
GEOMETRY = Geometry(**CASE.options)


@pytest.fixture
def calls():
    """Batch sizes that the opaque function was called with."""
    return []


@pytest.fixture
def opaque(calls):
    """A function of a batch that nothing may look into."""

    def function(x, weights):
        calls.append(x.shape[0])
        assert weights.shape[0] == x.shape[0]
        return xla.forward(x, weights, GEOMETRY, jnp.dtype(jnp.float32))

    return along_the_batch(function)


@pytest.fixture
def operands():
    return CASE.random_operands()[:2]


@pytest.fixture
def expected(operands):
    return xla.forward(*map(jnp.asarray, operands), GEOMETRY, jnp.dtype(jnp.float32))


def assert_equal(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


@each_axis_type
def test_each_device_calls_it_on_its_part_of_a_sharded_batch(
    opaque, calls, operands, expected, axis_type
):
    devices = jax.local_device_count()
    sharding = over_the_batch(axis_type)
    sharded = jax.device_put(operands, sharding)
    function = jax.jit(opaque)
    y = function(*sharded)
    assert calls[-1] == CASE.batch // devices
    assert y.sharding.is_equivalent_to(sharding, y.ndim)
    assert_equal(y, expected)
    assert not collectives(function, *sharded)


@each_axis_type
def test_a_replicated_batch_is_called_whole(opaque, calls, operands, expected, axis_type):
    sharded = jax.device_put(operands, replicated(over_the_batch(axis_type)))
    assert_equal(jax.jit(opaque)(*sharded), expected)
    assert calls[-1] == CASE.batch


@each_axis_type
def test_shard_map_calls_it_on_each_part(opaque, calls, operands, expected, axis_type):
    sharding = over_the_batch(axis_type)
    mapped = jax.shard_map(
        opaque, mesh=sharding.mesh, in_specs=sharding.spec, out_specs=sharding.spec
    )
    assert_equal(jax.jit(mapped)(*jax.device_put(operands, sharding)), expected)
    assert calls[-1] == CASE.batch // jax.local_device_count()


@each_axis_type
@pytest.mark.parametrize("in_context", [True, False])
@pytest.mark.parametrize("specs", [("a", "a"), ("a", None), (None, "a"), ("a", "b"), (None, None)])
def test_operands_are_brought_to_one_batch_on_a_mesh_of_two_axes(
    opaque, calls, operands, expected, axis_type, in_context, specs
):
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(axis_type,) * 2)
    placed = [
        jax.device_put(array, NamedSharding(mesh, PartitionSpec(spec)))
        for array, spec in zip(operands, specs, strict=True)
    ]
    with jax.sharding.set_mesh(mesh) if in_context else contextlib.nullcontext():
        assert_equal(jax.jit(opaque)(*placed), expected)
    spread = any(specs) if axis_type == AxisType.Auto else specs[0]
    assert calls[-1] == (CASE.batch // 2 if spread else CASE.batch)


def test_a_shard_map_over_one_of_two_axes_calls_it_on_each_part(opaque, operands, expected):
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    spec = PartitionSpec("a")
    mapped = jax.shard_map(opaque, mesh=mesh, in_specs=spec, out_specs=spec, axis_names={"a"})
    placed = jax.device_put(operands, NamedSharding(mesh, spec))
    assert_equal(jax.jit(mapped)(*placed), expected)


def test_pmap_calls_it_on_each_part(opaque, calls, operands, expected):
    devices = jax.local_device_count()
    split = [array.reshape(devices, -1, *array.shape[1:]) for array in operands]
    assert_equal(np.concatenate(jax.pmap(opaque)(*split)), expected)
    assert calls[-1] == CASE.batch // devices


@pytest.mark.parametrize("in_axes", [(0, 0), (2, 1)], ids=str)
def test_vmap_folds_into_the_batch(opaque, calls, operands, expected, in_axes):
    split = [array.reshape(4, -1, *array.shape[1:]) for array in operands]
    moved = [np.moveaxis(array, 0, axis) for array, axis in zip(split, in_axes, strict=True)]
    y = jax.jit(jax.vmap(opaque, in_axes))(*moved)
    assert calls[-1] == CASE.batch
    assert_equal(np.concatenate(y), expected)


def test_nested_vmaps_fold_twice_and_spread_what_is_not_mapped(opaque, calls, operands, expected):
    x, weights = operands
    weights = weights.reshape(2, 2, 2, *weights.shape[1:])
    inner = jax.vmap(opaque, in_axes=(None, 0))
    y = jax.jit(jax.vmap(inner, in_axes=(None, 0)))(x[:2], weights)
    assert calls[-1] == CASE.batch
    one = xla.forward(
        jnp.asarray(x[:2]), jnp.asarray(weights[1, 0]), GEOMETRY, jnp.dtype(jnp.float32)
    )
    assert_equal(y[1, 0], one)
