"""`vmap` of opaque functions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from carafe_kernels import xla
from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu.batching import folded
from carafe_kernels.mosaic_gpu.partitioning import on_shards
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.kernels.cases import Case
from tests.kernels.sharding import run_and_collectives
from tests.kernels.single import with_tuple, without_tuple
from tests.slow import slow

CASE = Case(3, up=2, size=(3, 4), batch=8)
GEOMETRY = Geometry(**CASE.options)


def forward(x, weights):
    return xla.forward(jnp.asarray(x), jnp.asarray(weights), GEOMETRY, jnp.dtype(jnp.float32))


@pytest.fixture
def calls():
    """The batch sizes with which the opaque function was called."""
    return []


@pytest.fixture
def opaque(calls):
    """Returns a function that makes opaque functions of a batch."""

    def make(max_batch):
        def function(x, weights):
            assert weights.shape[0] == x.shape[0]
            calls.append(x.shape[0])
            return forward(x, weights)

        sharded = on_shards(with_tuple(function), ("map", "weights"), ("map",), CASE.groups)
        return without_tuple(folded(sharded, max_batch))

    return make


@pytest.fixture
def operands():
    return CASE.random_operands()[:2]


@pytest.fixture
def expected(operands):
    return forward(*operands)


def assert_equal(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


def split(array, *sizes):
    return array.reshape(*sizes, -1, *array.shape[1:])


@pytest.mark.parametrize("in_axes", [(0, 0), (2, 1)], ids=str)
def test_vmap_folds_into_the_batch(opaque, calls, operands, expected, in_axes):
    moved = [np.moveaxis(split(a, 4), 0, axis) for a, axis in zip(operands, in_axes, strict=True)]
    y = jax.jit(jax.vmap(opaque(max_batch=8), in_axes))(*moved)
    assert calls[-1] == CASE.batch
    assert_equal(np.concatenate(y), expected)


def test_nested_vmaps_fold_twice_and_broadcast_unmapped_operands(opaque, calls, operands):
    x, weights = operands
    inner = jax.vmap(opaque(max_batch=8), in_axes=(None, 0))
    y = jax.jit(jax.vmap(inner, in_axes=(None, 0)))(x[:2], split(weights, 2, 2))
    assert calls[-1] == CASE.batch
    assert_equal(y[1, 0], forward(x[:2], weights[4:6]))


@pytest.mark.parametrize("max_batch", [1, 2, 3, 4, 6, 7])
def test_a_loop_folds_up_to_the_largest_batch(opaque, calls, operands, expected, max_batch):
    y = jax.jit(jax.vmap(opaque(max_batch)))(*(split(array, 4) for array in operands))
    assert_equal(np.concatenate(y), expected)
    assert max(calls) == max(CASE.batch // 4, max_batch - max_batch % 2)


@pytest.mark.parametrize("max_batch", [2, 5])
@pytest.mark.parametrize("in_axes", [(0, None), (None, 0)], ids=str)
def test_a_loop_takes_unmapped_operands(opaque, calls, operands, in_axes, max_batch):
    mapped = [
        array[:2] if axis is None else split(array, 4)
        for array, axis in zip(operands, in_axes, strict=True)
    ]
    y = jax.jit(jax.vmap(opaque(max_batch), in_axes))(*mapped)
    assert max(calls) <= max_batch
    for i in range(4):
        arguments = (
            array if axis is None else array[i] for array, axis in zip(mapped, in_axes, strict=True)
        )
        assert_equal(y[i], forward(*arguments))


@pytest.mark.parametrize("max_batch", [1, 2, 4, 6])
def test_nested_vmaps_loop_beyond_the_largest_batch(opaque, calls, operands, expected, max_batch):
    several = [split(array, 2, 4) for array in operands]
    y = jax.jit(jax.vmap(jax.vmap(opaque(max_batch))))(*several)
    assert_equal(np.concatenate(np.concatenate(y)), expected)
    assert max(calls) <= max_batch


def test_an_empty_batch_and_an_empty_axis(opaque):
    x, weights = np.zeros((0, *CASE.x_shape)), np.zeros((0, *CASE.weights_shape))
    x, weights = x.astype(np.float32), weights.astype(np.float32)
    run = jax.vmap(opaque(max_batch=8))
    assert jax.eval_shape(run, x, weights).shape == (0, *CASE.y_shape)
    moved = np.moveaxis(x, 0, 1), np.moveaxis(weights, 0, 1)
    assert jax.eval_shape(run, *moved).shape == (CASE.batch, 0, *CASE.y_shape[1:])


# Explicit mesh axes


def shard_sizes(sizes, spec):
    """The sizes of a shard of the leading dimensions, if each mesh axis has two devices."""
    entries = (entry if isinstance(entry, tuple) else (entry,) for entry in spec)
    return [
        size // 2 ** sum(axis is not None for axis in entry)
        for size, entry in zip(sizes, entries, strict=True)
    ]


def on_a_mesh(function, arrays, specs, mesh_sizes=(2, 2)):
    """Runs a function on a mesh, and returns its result and its kinds of communication."""
    mesh = jax.make_mesh(mesh_sizes, ("a", "b"), axis_types=(AxisType.Explicit,) * 2)
    sharded = [
        jax.device_put(array, NamedSharding(mesh, spec))
        for array, spec in zip(arrays, specs, strict=True)
    ]
    with jax.sharding.set_mesh(mesh):
        return run_and_collectives(jax.jit(function), *sharded)


SPECS = [P("a", None), P(None, "a"), P("a", "b"), P(("b", "a"), None), P(None, ("a", "b"))]
each_spec = pytest.mark.parametrize("spec", SPECS, ids=str)


@each_spec
@pytest.mark.parametrize("max_batch", [16, 3, slow(1)])
@pytest.mark.parametrize("in_axes", [(0, 0), (None, 0), slow((0, None))], ids=str)
def test_each_device_folds_its_shard_without_communication(opaque, calls, in_axes, max_batch, spec):
    operands = dataclasses.replace(CASE, batch=16).random_operands()[:2]
    arrays = [
        array[:4] if axis is None else split(array, 4)
        for array, axis in zip(operands, in_axes, strict=True)
    ]
    specs = [P(spec[1]) if axis is None else spec for axis in in_axes]
    run = jax.vmap(opaque(max_batch), in_axes)
    y, moved = on_a_mesh(run, arrays, specs)
    assert jax.typeof(y).sharding.spec[:2] == tuple(spec)
    assert not moved
    mapped, batch = shard_sizes((4, 4), spec)
    assert max(calls) == max(1, min(mapped, max_batch // batch)) * batch
    expected = jax.vmap(forward, in_axes)(*arrays)
    assert_equal(y, expected)


@pytest.mark.parametrize("max_batch", [8, 1])
@pytest.mark.parametrize(
    "spec", [P("a", "b", None), P("b", None, "a"), P(None, "a", "b"), P(None, "a", None)], ids=str
)
def test_nested_vmaps_fold_twice_on_each_device(opaque, operands, expected, spec, max_batch):
    arrays = [split(array, 2, 2) for array in operands]
    y, moved = on_a_mesh(jax.vmap(jax.vmap(opaque(max_batch))), arrays, [spec, spec])
    assert not moved
    assert_equal(np.concatenate(np.concatenate(np.asarray(y))), expected)


@pytest.mark.parametrize("max_batch", [16, 1])
@pytest.mark.parametrize("spec", [P("a", "b"), P("b", "a"), P("a", None), P(None, "a")], ids=str)
def test_a_mesh_axis_of_one_device(opaque, spec, max_batch):
    operands = dataclasses.replace(CASE, batch=16).random_operands()[:2]
    arrays = [split(array, 4) for array in operands]
    y, moved = on_a_mesh(jax.vmap(opaque(max_batch)), arrays, [spec, spec], mesh_sizes=(1, 4))
    assert not moved
    assert jax.typeof(y).sharding.spec[:2] == tuple(spec)
    assert_equal(np.concatenate(np.asarray(y)), forward(*operands))


def test_operands_with_different_shardings(opaque, operands, expected):
    arrays = [split(array, 4) for array in operands]
    y, _ = on_a_mesh(jax.vmap(opaque(max_batch=8)), arrays, [P("a", None, None, "b"), P("a", "b")])
    assert_equal(np.concatenate(np.asarray(y)), expected)
