"""One operand split over devices, the other the same on all: gradients are sums over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from carafe_jax import reassemble

X = np.random.default_rng(0).standard_normal((4, 4, 3, 2)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).standard_normal((1, 8, 6, 9)).astype(np.float32)


def loss(x, weights):
    weights = jnp.broadcast_to(weights, (x.shape[0], *weights.shape[1:]))
    return jnp.square(reassemble(x, weights, kernel_size=3, up=2)).sum()


gradient = jax.grad(loss, argnums=(0, 1))
EXPECTED = jax.tree.map(np.asarray, gradient(X, WEIGHTS))


def assert_expected(gradients):
    for actual, desired in zip(gradients, EXPECTED, strict=True):
        np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-5)


@pytest.fixture(params=[AxisType.Auto, AxisType.Explicit])
def mesh_of_arrays(request):
    """A mesh that arrays have, and the context has not."""
    return jax.make_mesh((4,), ("data",), axis_types=(request.param,))


@pytest.fixture
def mesh(mesh_of_arrays):
    with jax.sharding.set_mesh(mesh_of_arrays):
        yield mesh_of_arrays


def place(mesh, array, spec):
    return jax.device_put(array, NamedSharding(mesh, spec))


@pytest.mark.parametrize("specs", [(P("data"), P()), (P(), P())])
def test_under_jit(mesh, specs):
    operands = (place(mesh, a, s) for a, s in zip((X, WEIGHTS), specs, strict=True))
    assert_expected(jax.jit(gradient)(*operands))


def test_a_replicated_map_under_jit(mesh):
    x = place(mesh, X, P())
    weights = place(mesh, np.repeat(WEIGHTS, 4, axis=0), P("data"))
    dx, dweights = jax.jit(gradient)(x, weights)
    assert_expected((dx, dweights.sum(0, keepdims=True)))


def test_a_replicated_map_without_a_mesh_in_the_context(mesh_of_arrays):
    x = place(mesh_of_arrays, X, P())
    weights = place(mesh_of_arrays, np.repeat(WEIGHTS, 4, axis=0), P("data"))
    y = jax.jit(lambda x, weights: reassemble(x, weights, kernel_size=3, up=2))(x, weights)
    np.testing.assert_allclose(
        y, reassemble(X, np.repeat(WEIGHTS, 4, axis=0), kernel_size=3, up=2), rtol=1e-6, atol=1e-6
    )


def test_gradient_inside_shard_map(mesh):
    specs = (P("data"), P())
    mapped = jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=specs)
    assert_expected(jax.jit(mapped)(place(mesh, X, specs[0]), place(mesh, WEIGHTS, specs[1])))


def test_gradient_of_shard_map(mesh):
    mapped = jax.shard_map(
        lambda x, weights: jax.lax.psum(loss(x, weights), "data"),
        mesh=mesh,
        in_specs=(P("data"), P()),
        out_specs=P(),
    )
    operands = place(mesh, X, P("data")), place(mesh, WEIGHTS, P())
    assert_expected(jax.jit(jax.grad(mapped, argnums=(0, 1)))(*operands))
