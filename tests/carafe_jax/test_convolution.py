import functools
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
from tests.carafe_jax.twins import random_map
from tests.kernels.sharding import (
    each_axis_type,
    over_the_batch,
    replicated,
    run_and_collectives,
)

CHANNELS, FEATURES = 6, 4
CHANNELS_LAST = "NHWC", "HWIO", "NHWC"

convolve_last = functools.partial(convolve, padding="SAME", dimension_numbers=CHANNELS_LAST)


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


def convolutions(function, *arguments):
    """How many convolutions are in a function before XLA sees it."""
    return jax.jit(function).lower(*arguments).as_text().count("stablehlo.convolution")


def gradients(call):
    """The gradients of half the sum of squares, by all operands."""

    def run(*operands):
        y, pull = jax.vjp(call, *operands)
        return pull(y)

    return run


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


# The gradient of a larger kernel

WIDE = 20  # channels and features, enough for products in 16 bits


def wide(size, *, dtype=jnp.bfloat16, kernel_size=(3, 3)):
    """A map and a kernel whose gradient is computed by products, with numbers that are exact."""
    rng = np.random.default_rng(0)
    shapes = (2, *size, WIDE), (*kernel_size, WIDE, WIDE)
    return [jnp.asarray(rng.integers(-2, 3, shape), dtype) for shape in shapes]


def by_xla(x, kernel, strides, **options):
    return lax.conv_general_dilated(
        x, kernel, strides, **{"padding": "SAME", "dimension_numbers": CHANNELS_LAST, **options}
    )


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (1, 3)], ids=str)
@pytest.mark.parametrize(
    ("kernel_size", "options"),
    [
        ((3, 3), {}),
        ((3, 3), {"padding": "VALID"}),
        ((3, 3), {"padding": ((1, 2), (0, 3))}),
        ((3, 3), {"rhs_dilation": (2, 3)}),
        ((2, 5), {}),
        ((1, 1), {"padding": ((1, 1), (0, 1))}),
    ],
    ids=str,
)
def test_gradients_of_larger_kernels(kernel_size, options, strides):
    # Small integers: sums in any order are the same to the bit.
    operands = wide((7, 8), kernel_size=kernel_size)
    actual, expected = (
        jax.jit(gradients(functools.partial(function, window_strides=strides, **options)))
        for function in (
            convolve_last,
            lambda x, kernel, window_strides, **options: by_xla(
                x, kernel, window_strides, **options
            ),
        )
    )
    assert convolutions(actual, *operands) == convolutions(expected, *operands) - 1
    for value, same in zip(actual(*operands), expected(*operands), strict=True):
        assert value.dtype == same.dtype
        np.testing.assert_array_equal(np.float32(value), np.float32(same))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-13), ("float32", 1e-6), ("bfloat16", 4e-3),
                             ("float16", 5e-4)]
)  # fmt: skip
def test_gradients_of_larger_kernels_are_those_of_float64_but_for_rounding(dtype, tolerance):
    shapes = (2, 5, 6, 64), (2, 3, 3, 100)
    with jax.enable_x64(True):
        x, dy = (
            jnp.asarray(random_map(*shape, seed=seed), dtype) for seed, shape in enumerate(shapes)
        )
        kernel = jnp.zeros((3, 3, 64, 100), dtype)

        def call(kernel):
            return convolve_last(x, kernel, (2, 2))

        assert convolutions(lambda dy: jax.vjp(call, kernel)[1](dy), dy) == 0
        (actual,) = jax.vjp(call, kernel)[1](dy)
        assert actual.dtype == dtype
        actual = np.float64(actual)
    # SAME: five rows are padded on both sides, six columns on the right only.
    padded = np.pad(np.float64(x), ((0, 0), (1, 1), (0, 1), (0, 0)))
    expected = np.zeros_like(actual)
    for row, column in np.ndindex(3, 3):
        for n, m in np.ndindex(3, 3):
            seen = padded[:, 2 * row + n, 2 * column + m]
            expected[n, m] += np.einsum("bc,bf->cf", seen, np.float64(dy[:, row, column]))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("shape", [(0, 6, 6), (2, 2, 6), (2, 2, 2)], ids=str)
def test_gradients_where_the_result_is_empty(shape):
    x, kernel = random_map(*shape, 64), random_map(3, 3, 64, 100)
    options = {"window_strides": (2, 2), "padding": "VALID", "dimension_numbers": CHANNELS_LAST}
    dx, dkernel = gradients(functools.partial(convolve, **options))(x, kernel)
    assert dx.shape == x.shape
    np.testing.assert_array_equal(dkernel, np.zeros_like(kernel))


@pytest.mark.parametrize(
    ("channels", "features", "dtype", "by_products"),
    [(64, 96, "float32", True), (64, 95, "float32", False), (16, 24, "bfloat16", True),
     (16, 23, "bfloat16", False), (16, 24, "float16", True)],
)  # fmt: skip
def test_gradients_are_products_where_channels_are_many(channels, features, dtype, by_products):
    shapes = (1, 6, 6, channels), (3, 3, channels, features)
    operands = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    run = gradients(functools.partial(convolve_last, window_strides=(1, 1)))
    assert convolutions(run, *operands) == (2 if by_products else 3)


def test_gradients_are_products_on_a_cpu_only():
    run = jax.jit(gradients(functools.partial(convolve_last, window_strides=(1, 1))))
    traced = run.trace(*wide((6, 6)))
    for platform in ("cuda", "rocm", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == 3
        assert "stablehlo.dot_general" not in text


def test_larger_kernels_have_derivatives_of_second_order():
    x, kernel = (operand.astype(jnp.float32) for operand in wide((4, 4)))
    operands = jnp.tile(x, 4), jnp.tile(kernel, (1, 1, 4, 5))  # 80 channels, 100 features

    def penalty(function):
        def run(x, kernel):
            dx, dkernel = gradients(lambda *operands: jnp.sin(function(*operands, (1, 1))))(
                x, kernel
            )
            return (dx**2).mean() + (dkernel**2).mean()

        return jax.jit(jax.grad(run, argnums=(0, 1)))

    for value, same in zip(
        penalty(convolve_last)(*operands), penalty(by_xla)(*operands), strict=True
    ):
        np.testing.assert_allclose(value, same, rtol=1e-3, atol=1e-3 * np.abs(same).max())


def test_gradients_of_larger_kernels_under_vmap():
    x, kernel = wide((6, 6))
    run = gradients(functools.partial(convolve_last, window_strides=(1, 1)))
    maps = jnp.stack([x, x + 1])
    for index, values in enumerate(zip(*jax.vmap(run, (0, None))(maps, kernel), strict=True)):
        for value, same in zip(values, run(maps[index], kernel), strict=True):
            np.testing.assert_array_equal(np.float32(value), np.float32(same))


@each_axis_type
def test_gradients_of_larger_kernels_with_a_sharded_batch(axis_type):
    devices = jax.local_device_count()
    x, kernel = wide((6, 6))
    x = jnp.concatenate([x] * (devices // 2))
    sharding = over_the_batch(axis_type)
    placed = jax.device_put(x, sharding), jax.device_put(kernel, replicated(sharding))
    run = jax.jit(gradients(functools.partial(convolve_last, window_strides=(1, 1))))
    (dx, dkernel), moved = run_and_collectives(run, *placed)
    assert dx.sharding.is_equivalent_to(sharding, dx.ndim)
    assert moved == {"all-reduce"}
    for value, same in zip((dx, dkernel), run(x, kernel), strict=True):
        # In parts, bfloat16 rounds sums of more than 256.
        np.testing.assert_allclose(np.float32(value), np.float32(same), rtol=0.02, atol=8)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("axis", range(4), ids=["batch", "height", "width", "channels"])
def test_gradients_of_larger_kernels_move_what_those_of_xla_move(axis, strides):
    devices = jax.local_device_count()
    mesh = jax.make_mesh((devices,), ("a",), axis_types=(AxisType.Auto,))
    x, kernel = random_map(*(2 * devices,) * 3, 64), random_map(3, 3, 64, 100, seed=1)
    split, whole = (NamedSharding(mesh, spec) for spec in (P(*(None,) * axis, "a"), P()))
    placed = jax.device_put(x, split), jax.device_put(kernel, whole)
    ours, xla = (
        jax.jit(gradients(functools.partial(function, window_strides=strides)))
        for function in (
            convolve_last,
            lambda x, kernel, window_strides: by_xla(x, kernel, window_strides),
        )
    )
    assert convolutions(ours, *placed) == convolutions(xla, *placed) - 1
    found, moved = run_and_collectives(ours, *placed)
    assert moved <= run_and_collectives(xla, *placed)[1]
    for value, same in zip(found, xla(x, kernel), strict=True):
        np.testing.assert_allclose(value, same, rtol=1e-4, atol=1e-5 * np.abs(same).max())


def test_gradients_of_one_kernel_for_all_devices_of_a_shard_map():
    mesh = jax.make_mesh((jax.local_device_count(),), ("data",), axis_types=(AxisType.Auto,))
    x, kernel = (operand.astype(jnp.float32) for operand in wide((4, 4)))
    operands = jnp.tile(x, (2, 1, 1, 4)), jnp.tile(kernel, (1, 1, 4, 5))

    def loss(x, kernel):
        return jax.lax.psum((convolve_last(x, kernel, (1, 1)) ** 2).sum(), "data")

    run = jax.shard_map(
        jax.grad(loss, argnums=(0, 1)),
        mesh=mesh,
        in_specs=(P("data"), P()),
        out_specs=(P("data"), P()),
    )
    # The convolution and the gradient by the map: that by the kernel is made of products.
    assert convolutions(run, *operands) == 2
    expected = jax.grad(lambda *operands: (by_xla(*operands, (1, 1)) ** 2).sum(), (0, 1))
    for value, same in zip(jax.jit(run)(*operands), expected(*operands), strict=True):
        np.testing.assert_allclose(value, same, rtol=1e-4, atol=1e-2)


def test_temporaries_hold_one_tap_at_a_time():
    x, kernel = random_map(4, 32, 32, 64), random_map(3, 3, 64, 128)
    run = jax.jit(gradients(functools.partial(convolve_last, window_strides=(1, 1))))
    compiled = run.lower(x, kernel).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 6 * x.nbytes


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
