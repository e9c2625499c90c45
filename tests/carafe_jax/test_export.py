"""Exports with a symbolic batch size, height and width."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import carafe_jax
from carafe_jax.convolution import convolve
from tests.carafe_jax.twins import CHANNELS, SMALL, random_map, twins
from tests.kernels.cases import Case
from tests.slow import slow

SCALES = [
    {"up": 2},
    {"down": 2},
    slow({"up": 3, "down": 2}),
    slow({"up": 2, "down": 2}),
    slow({"up": 2, "down": 3}),
    slow({"down": 4}),
]
each_scale = pytest.mark.parametrize("scale", SCALES, ids=str)
# Even and odd sizes, and a single row.
SIZES = [(5, 4), (1, 7)]


@pytest.mark.parametrize("api", ["linen", slow("nnx")])
@each_scale
def test_a_layer_exports_for_every_size(scale, api):
    linen, variables, layer = twins(**scale, **SMALL)
    graph, state = nnx.split(layer)
    apply = {
        "linen": functools.partial(linen.apply, variables),
        "nnx": lambda x: nnx.merge(graph, state)(x),
    }[api]
    sizes = jax.export.symbolic_shape("batch, height, width")
    shape = jax.ShapeDtypeStruct((*sizes, CHANNELS), jnp.float32)
    exported = jax.export.export(jax.jit(apply))(shape)
    exported = jax.export.deserialize(exported.serialize())
    for size in SIZES:
        x = random_map(2, *size, CHANNELS)
        expected = jax.jit(apply)(x)
        np.testing.assert_allclose(exported.call(x), expected, rtol=1e-5, atol=1e-6)


@each_scale
def test_gradients_export_for_every_size(scale):
    options = Case(3, **scale).options

    def loss(x, logits):
        return jnp.sum(jnp.sin(carafe_jax.carafe(x, logits, **options)))

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    height, width = jax.export.symbolic_shape("height, width")
    down = scale.get("down", 1)
    shapes = [
        (1, height, width, CHANNELS),
        (1, (height - 1) // down + 1, (width - 1) // down + 1, Case(3, **scale).logits_shape[-1]),
    ]
    exported = jax.export.export(gradient)(
        *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    )
    for size in SIZES:
        case = Case(3, size=size, batch=1, **scale)
        x, logits = random_map(1, *size, CHANNELS), random_map(*case.logits_shape, seed=1)
        for actual, desired in zip(exported.call(x, logits), gradient(x, logits), strict=True):
            np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-5)


def test_a_symbolic_size_that_may_not_fit_is_refused_and_named():
    height, other = jax.export.symbolic_shape("height, other")
    shapes = (1, height, 4, CHANNELS), (1, other, 4, 9)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    reassemble = jax.jit(functools.partial(carafe_jax.reassemble, kernel_size=3))
    with pytest.raises(ValueError, match=r"weights .*height.*got shape .*other"):
        jax.export.export(reassemble)(*arrays)


@pytest.mark.parametrize("padding", ["VALID", slow("SAME")])
def test_a_layer_exports_behind_pooling_and_strided_convolutions(padding):
    """Sizes of these layers are expressions that JAX cannot compare with numbers."""

    class Backbone(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.max_pool(x, (2, 2), (2, 2), padding)
            for size in (1, 3):
                strided = nn.Conv(CHANNELS, (size, size), 2, padding, conv_general_dilated=convolve)
                x = strided(x)
            return carafe_jax.linen.CARAFE(up=2, **SMALL)(x)

    model = Backbone()
    variables = model.init(jax.random.key(0), jnp.ones((1, 32, 32, 3)))
    apply = jax.jit(lambda x: model.apply(variables, x))
    sizes = jax.export.symbolic_shape("height, width", constraints=["height >= 24", "width >= 24"])
    exported = jax.export.export(apply)(jax.ShapeDtypeStruct((1, *sizes, 3), jnp.float32))
    x = random_map(1, 29, 40, 3)
    np.testing.assert_allclose(exported.call(x), apply(x), rtol=1e-5, atol=1e-6)


def test_a_symbolic_number_of_channels_is_refused_and_named():
    (channels,) = jax.export.symbolic_shape("channels")
    arrays = [jax.ShapeDtypeStruct((1, 4, 4, n), jnp.float32) for n in (channels, 9)]
    reassemble = jax.jit(functools.partial(carafe_jax.reassemble, kernel_size=3))
    with pytest.raises(ValueError, match=r"x .*number of channels.*channels"):
        jax.export.export(reassemble)(*arrays)
