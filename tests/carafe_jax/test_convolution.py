import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import carafe_jax
from carafe_jax.convolution import convolve
from tests.carafe_jax.convolutions import CHANNELS_LAST, convolutions, convolve_last, gradients
from tests.carafe_jax.twins import random_map
from tests.kernels.sharding import (
    each_axis_type,
    run_and_collectives,
)

CHANNELS, FEATURES = 6, 4


def random_variables(layer, x):
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: random_map(*leaf.shape, seed=1), shapes)


def with_gradients(layer, x):
    """Result and gradients of a layer whose variables do not depend on how it convolves."""
    variables = random_variables(layer, x)

    @jax.jit
    def run(variables, x):
        y, pull = jax.vjp(layer.apply, variables, x)
        return y, pull(jnp.cos(y))

    return jax.tree.leaves_with_path(run(variables, x))


def product_and_convolution(*options, **keywords):
    """The layer twice."""
    return (
        nn.Conv(FEATURES, *options, **keywords, conv_general_dilated=convolve),
        nn.Conv(FEATURES, *options, **keywords),
    )


@pytest.mark.parametrize("strides", [1, 2, (2, 3)])
@pytest.mark.parametrize(
    "options",
    [
        {"padding": "SAME"},
        {"padding": "VALID"},
        {"padding": 0},
        {"padding": 0, "use_bias": False, "kernel_dilation": 2},
        {"padding": 0, "precision": "highest"},
        # These are no matrix products.
        {"padding": 1},
        {"padding": 0, "feature_group_count": 2},
        {"padding": 0, "input_dilation": 2},
    ],
    ids=str,
)
def test_it_is_the_1x1_convolution(strides, options):
    x = random_map(2, 7, 8, CHANNELS)
    got, expected = (
        with_gradients(layer, x) for layer in product_and_convolution((1, 1), strides, **options)
    )
    for (path, value), (expected_path, expected_value) in zip(got, expected, strict=True):
        assert path == expected_path
        np.testing.assert_allclose(value, expected_value, 1e-5, 1e-5, err_msg=str(path))


def test_other_kernels_are_convolved_as_before():
    x = random_map(2, 7, 8, CHANNELS)
    for kernel_size in ((3, 3), (1, 3), (3, 1)):
        got, expected = (
            with_gradients(layer, x) for layer in product_and_convolution(kernel_size, 2, padding=1)
        )
        for (path, value), (_, same) in zip(got, expected, strict=True):
            np.testing.assert_array_equal(value, same, err_msg=str(path))


@pytest.mark.parametrize("size", [(9,), (3, 4, 5)], ids=str)
def test_maps_have_any_number_of_axes(size):
    x = random_map(2, *size, CHANNELS)
    layer, convolution = product_and_convolution((1,) * len(size))
    variables = random_variables(layer, x)
    np.testing.assert_allclose(
        layer.apply(variables, x), convolution.apply(variables, x), rtol=1e-5, atol=1e-6
    )


def test_bfloat16_rounds_as_the_convolution_does():
    x = jnp.asarray(random_map(2, 7, 8, 64), jnp.bfloat16)
    got, expected = (
        with_gradients(layer, x) for layer in product_and_convolution((1, 1), dtype=x.dtype)
    )
    assert got[0][1].dtype == jnp.bfloat16
    for (path, value), (_, same) in zip(got, expected, strict=True):
        assert value.dtype == same.dtype
        value, same = np.float32(value), np.float32(same)
        np.testing.assert_allclose(value, same, atol=0.02 * abs(same).max(), err_msg=str(path))


def test_nnx_layers_may_ask_for_a_dtype_of_the_result():
    layer = nnx.Conv(
        CHANNELS,
        FEATURES,
        (1, 1),
        use_bias=False,
        dtype=jnp.bfloat16,
        preferred_element_type=jnp.float32,
        conv_general_dilated=convolve,
        rngs=nnx.Rngs(0),
    )
    x = random_map(2, 7, 8, CHANNELS)
    y = layer(x)
    kernel, rounded = (np.float32(jnp.bfloat16(a)) for a in (layer.kernel[0, 0], x))
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, rounded @ kernel, rtol=1e-5, atol=1e-6)


def test_gradients_are_products_too():
    x, kernel = random_map(2, 7, 8, CHANNELS), random_map(1, 1, CHANNELS, FEATURES)

    def call(x, kernel):
        return convolve_last(x, kernel, (2, 2))

    assert not convolutions(gradients(call), x, kernel)


def test_xla_does_not_transpose_the_kernel_gradient_inside_of_its_product():
    x, kernel = random_map(2, 7, 8, CHANNELS), random_map(1, 1, CHANNELS, FEATURES)
    run = jax.jit(gradients(lambda x, kernel: convolve_last(x, kernel, (1, 1))))
    text = run.lower(x, kernel).compile().as_text()
    assert re.search(rf"f32\[{FEATURES},{CHANNELS}\]\S* dot\(", text)


def test_derivatives_of_both_modes_and_any_order_exist():
    x, kernel = random_map(1, 2, 3, CHANNELS), random_map(1, 1, CHANNELS, FEATURES)

    def loss(kernel):
        return (convolve_last(x, kernel, (1, 1)) ** 3).sum()

    def expected_loss(kernel):
        return (jnp.matmul(x, kernel[0, 0], precision="highest") ** 3).sum()

    np.testing.assert_allclose(
        jax.hessian(loss)(kernel), jax.hessian(expected_loss)(kernel), rtol=1e-4, atol=1e-4
    )


@each_axis_type
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("axis", range(3), ids=["batch", "height", "width"])
def test_a_sharded_map_stays_where_it_is(axis, strides, axis_type):
    devices = jax.local_device_count()
    x = random_map(*(2 * devices,) * 3, CHANNELS)
    kernel = random_map(1, 1, CHANNELS, FEATURES, seed=1)
    mesh = jax.make_mesh((devices,), ("a",), axis_types=(axis_type,))
    split = NamedSharding(mesh, P(*(None,) * axis, "a"))
    placed = jax.device_put(x, split), jax.device_put(kernel, NamedSharding(mesh, P()))
    run = jax.jit(gradients(lambda x, kernel: convolve_last(x, kernel, strides)))
    (dx, dkernel), moved = run_and_collectives(run, *placed)
    assert dx.sharding.is_equivalent_to(split, dx.ndim)
    assert moved == {"all-reduce"}  # of the kernel's gradient
    expected_dx, expected_dkernel = run(x, kernel)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dkernel, expected_dkernel, rtol=1e-4, atol=1e-4)


def test_channels_may_be_sharded_where_the_convolution_asks_for_a_result():
    devices = jax.local_device_count()
    x, kernel = random_map(2, 3, 4, devices), random_map(1, 1, devices, FEATURES, seed=1)
    mesh = jax.make_mesh((devices,), ("a",), axis_types=(AxisType.Explicit,))
    replicated = NamedSharding(mesh, P())
    placed = (
        jax.device_put(x, NamedSharding(mesh, P(None, None, None, "a"))),
        jax.device_put(kernel, NamedSharding(mesh, P(None, None, "a"))),
    )
    y = jax.jit(lambda *operands: convolve_last(*operands, (1, 1), out_sharding=replicated))(
        *placed
    )
    assert y.sharding.is_equivalent_to(replicated, y.ndim)
    np.testing.assert_allclose(y, np.einsum("bhwc,cf->bhwf", x, kernel[0, 0]), rtol=1e-5, atol=1e-6)


def test_layers_predict_kernels_by_it():
    x = random_map(2, 5, 6, CHANNELS)
    linen = carafe_jax.linen.CARAFE(up=2)
    layer = carafe_jax.nnx.CARAFE(CHANNELS, up=2, rngs=nnx.Rngs(0))
    graph, state = nnx.split(layer)
    calls = [
        (linen.apply, linen.init(jax.random.key(0), x)),
        (lambda state, x: nnx.merge(graph, state)(x), state),
    ]
    for call, variables in calls:
        # The content encoder and its gradient by the map.
        assert convolutions(call, variables, x) == 1
        assert convolutions(gradients(call), variables, x) == 2


def test_what_it_leaves_to_jax_it_leaves_whole():
    x, kernel = random_map(2, 7, 8, CHANNELS), random_map(3, 3, CHANNELS, FEATURES)
    options = {
        "rhs_dilation": (2, 1),
        "dimension_numbers": CHANNELS_LAST,
        "precision": "highest",
        "preferred_element_type": jnp.float32,
    }
    np.testing.assert_array_equal(
        convolve(x, kernel, (1, 2), "SAME", **options),
        lax.conv_general_dilated(x, kernel, (1, 2), "SAME", **options),
    )


@pytest.mark.parametrize(
    "order", [None, ("NHWC", "OIHW", "NHWC"), ("NHWC", "HWIO", "NCHW"), ("NWHC", "HWIO", "NWHC")]
)
def test_other_orders_of_axes_are_understood(order):
    x, kernel = random_map(5, 5, 5, 5), random_map(5, 5, 1, 1)
    kernel = kernel if order is None or order[1] == "OIHW" else kernel.T
    np.testing.assert_allclose(
        convolve(x, kernel, (1, 2), "SAME", dimension_numbers=order),
        lax.conv_general_dilated(x, kernel, (1, 2), "SAME", dimension_numbers=order),
        rtol=1e-5,
        atol=1e-6,
    )
