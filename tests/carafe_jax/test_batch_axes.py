"""Maps with any number of leading batch axes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import carafe_jax
from tests.carafe_jax.twins import CHANNELS, SMALL, assert_trees_close, random_map, twins
from tests.kernels import oracle
from tests.kernels.cases import Case
from tests.kernels.sharding import each_axis_type, run_and_collectives
from tests.slow import slow

BATCHES = [(), (2, 3), (2, 0), slow((2, 1, 2))]
SCALES = [{"up": 2}, {"down": 2}, slow({"up": 3, "down": 2, "groups": 2})]
each_batch = pytest.mark.parametrize("batch", BATCHES, ids=str)
each_scale = pytest.mark.parametrize("scale", SCALES, ids=str)


def operands(scale, batch, form):
    case = Case(3, size=(5, 4), **scale)
    shape = case.weights_shape if form == "reassemble" else case.logits_shape
    return case, random_map(*batch, *case.x_shape[1:]), random_map(*batch, *shape[1:], seed=1)


def one_by_one(function, batch, *arrays):
    """Applies a function of single images to each image of a batch."""
    flat = [array.reshape(-1, *array.shape[len(batch) :]) for array in arrays]
    results = [function(*images) for images in zip(*flat, strict=True)]
    return np.reshape(results, (*batch, *np.shape(results)[1:]))


@each_batch
@each_scale
def test_reassemble_equals_the_oracle_image_by_image(scale, batch):
    case, x, weights = operands(scale, batch, "reassemble")
    y = carafe_jax.reassemble(x, weights, **case.options)
    assert y.shape == (*batch, *case.y_shape[1:])

    def expected(x, weights):
        return oracle.reassemble(x[None], weights[None], **case.options)[0]

    if y.size:
        np.testing.assert_allclose(y, one_by_one(expected, batch, x, weights), rtol=1e-5, atol=1e-5)


@each_batch
@each_scale
@pytest.mark.parametrize("function", [carafe_jax.carafe, carafe_jax.reassembly_kernels])
def test_logits_are_applied_image_by_image(function, scale, batch):
    case, x, logits = operands(scale, batch, "carafe")
    call = functools.partial(function, **case.options)
    y = call(x, logits)
    if y.size:
        np.testing.assert_allclose(y, one_by_one(call, batch, x, logits), rtol=1e-6, atol=1e-6)
    else:
        assert y.shape[: len(batch)] == batch


@pytest.mark.parametrize("form", ["reassemble", "carafe"])
def test_gradients_have_the_shapes_and_the_values_of_one_batch_axis(form):
    case, x, second = operands({"up": 2}, (2, 3), form)
    call = functools.partial(getattr(carafe_jax, form), **case.options)
    gradient = jax.jit(jax.grad(lambda *a: jnp.sum(jnp.sin(call(*a))), argnums=(0, 1)))
    dx, dsecond = gradient(x, second)
    expected = gradient(x.reshape(6, *x.shape[2:]), second.reshape(6, *second.shape[2:]))
    np.testing.assert_array_equal(dx, expected[0].reshape(x.shape))
    np.testing.assert_array_equal(dsecond, expected[1].reshape(second.shape))


@pytest.mark.parametrize("form", ["reassemble", "carafe"])
def test_more_axes_copy_nothing(form):
    case, x, second = operands({"up": 2}, (2, 3), form)
    call = functools.partial(getattr(carafe_jax, form), **case.options)
    gradient = jax.grad(lambda *a: jnp.sum(jnp.sin(call(*a))), argnums=(0, 1))

    def temporary_bytes(*shapes):
        analysis = jax.jit(gradient).lower(*shapes).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    def shapes(*batch):
        arrays = (x, second)
        return [jax.ShapeDtypeStruct((*batch, *a.shape[2:]), a.dtype) for a in arrays]

    assert temporary_bytes(*shapes(2, 3)) <= temporary_bytes(*shapes(6))


def shard_map(call):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    spec = PartitionSpec("data")
    return jax.shard_map(call, mesh=mesh, in_specs=spec, out_specs=spec)


TRANSFORMS = [jax.jit, jax.vmap, jax.pmap, jax.checkpoint, shard_map]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("form", ["reassemble", "carafe"])
def test_transformations_keep_batch_axes(form, transform):
    case, x, second = operands({"up": 2}, (2, 3), form)
    call = functools.partial(getattr(carafe_jax, form), **case.options)
    np.testing.assert_allclose(transform(call)(x, second), call(x, second), rtol=1e-6, atol=1e-6)


AXES = [
    PartitionSpec("rows"),
    PartitionSpec(None, "rows"),
    slow(PartitionSpec("rows", "columns")),
    slow(PartitionSpec(("rows", "columns"))),
]


def mesh_of(axis_type):
    return jax.make_mesh((2, 2), ("rows", "columns"), axis_types=(axis_type,) * 2)


@each_axis_type
@pytest.mark.parametrize("form", ["reassemble", slow("carafe")])
@pytest.mark.parametrize("spec", AXES, ids=str)
def test_a_mesh_may_shard_any_batch_axis_without_communication(spec, form, axis_type):
    case, *arrays = operands({"up": 2}, (4, 4), form)
    call = functools.partial(getattr(carafe_jax, form), **case.options)
    sharding = NamedSharding(mesh_of(axis_type), spec)

    def gradient(x, second):
        return jax.value_and_grad(lambda x: jnp.sum(call(x, second) ** 2))(x)[1]

    for function in (call, gradient):
        sharded = jax.device_put(arrays, sharding)
        y, communication = run_and_collectives(jax.jit(function), *sharded)
        # The loss of the gradient is a sum over all devices.
        assert communication <= ({"all-reduce"} if function is gradient else set())
        assert y.sharding.is_equivalent_to(sharding, y.ndim)
        np.testing.assert_allclose(y, function(*arrays), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["reassemble", "carafe"])
def test_an_array_on_no_mesh_has_a_gradient_beside_a_sharded_map(form):
    case, x, second = operands({"up": 2}, (2, 4), form)
    call = functools.partial(getattr(carafe_jax, form), **case.options)
    sharding = NamedSharding(mesh_of(AxisType.Explicit), PartitionSpec(None, "rows"))
    gradient = jax.grad(lambda second, x: jnp.sum(call(x, second) ** 2))
    with jax.set_mesh(sharding.mesh):
        found = gradient(jnp.asarray(second), jax.device_put(x, sharding))
    np.testing.assert_allclose(found, gradient(second, x), rtol=1e-4, atol=1e-4)


@each_batch
@pytest.mark.parametrize("options", [{"up": 2}, slow({"down": 2, "batch_norm": True})], ids=str)
def test_layers_take_any_batch_axes(options, batch):
    linen, variables, layer = twins(**options, **SMALL)
    layer.eval()
    if "batch_norm" in options:
        linen = linen.clone(use_running_average=True)
    x = random_map(*batch, 5, 4, CHANNELS)
    y = linen.apply(variables, x)
    kernels = linen.apply(variables, x, method="reassembly_kernels")
    if y.size:
        expected = one_by_one(lambda image: linen.apply(variables, image[None])[0], batch, x)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    assert y.shape[: len(batch)] == kernels.shape[: len(batch)] == batch
    np.testing.assert_allclose(layer(x), y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.reassembly_kernels(x), kernels, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("transform", [jax.jit, *map(slow, TRANSFORMS[1:])])
def test_transformations_of_layers_keep_batch_axes(transform):
    linen, variables, layer = twins(up=2, **SMALL)
    x = random_map(2, 3, 5, 4, CHANNELS)
    expected = linen.apply(variables, x)
    for call in (lambda x: linen.apply(variables, x), layer):
        np.testing.assert_allclose(transform(call)(x), expected, rtol=1e-5, atol=1e-6)


def test_gradients_of_layers_are_those_of_one_batch_axis():
    linen, variables, _ = twins(up=2, **SMALL)
    x = random_map(2, 3, 5, 4, CHANNELS)
    gradient = jax.jit(jax.grad(lambda v, x: jnp.mean(linen.apply(v, x) ** 2)))
    found, expected = (gradient(variables, array) for array in (x, x.reshape(6, *x.shape[2:])))
    assert_trees_close(found, expected, rtol=1e-4, atol=1e-7)


def test_layers_initialise_from_a_single_image():
    x = random_map(5, 4, CHANNELS)
    y, _ = carafe_jax.linen.CARAFE(up=2, **SMALL).init_with_output(jax.random.key(0), x)
    layer = carafe_jax.nnx.CARAFE(CHANNELS, up=2, **SMALL, rngs=nnx.Rngs(0))
    assert y.shape == layer(x).shape == (10, 8, CHANNELS)


@pytest.mark.parametrize("second", [(3, 4, 4, 9), (2, 4, 4, 9), (4, 4, 9), (1, 2, 3, 4, 4, 9)])
def test_batch_axes_must_be_those_of_the_map(second):
    x = random_map(2, 3, 4, 4, CHANNELS)
    for function, name in [(carafe_jax.reassemble, "weights"), (carafe_jax.carafe, "logits")]:
        with pytest.raises(ValueError, match=rf"{name} .*\(2, 3, 4, 4, 9\).*got shape"):
            function(x, random_map(*second), kernel_size=3)
