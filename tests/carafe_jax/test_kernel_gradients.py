"""Gradients of kernels larger than 1x1, which are products on a CPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from carafe_jax.convolution import convolve
from tests.carafe_jax.convolutions import CHANNELS_LAST, convolutions, convolve_last, gradients
from tests.carafe_jax.twins import random_map
from tests.kernels.sharding import (
    each_axis_type,
    over_the_batch,
    replicated,
    run_and_collectives,
)

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
