"""The modulated deformable convolution under JAX's transformations, and its Linen module."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models.deformable_convolution import (
    ModulatedDeformableConv,
    modulated_deformable_convolution,
)
from tests.compilation import jit

DEVICES = 4

convolve = functools.partial(modulated_deformable_convolution, padding=1)


@pytest.fixture(scope="module")
def operands():
    """x, offsets and masks with an axis of devices before the batch, and a kernel."""
    keys = jax.random.split(jax.random.key(0), 4)
    return (
        jax.random.normal(keys[0], (DEVICES, 1, 5, 6, 4)),
        2 * jax.random.normal(keys[1], (DEVICES, 1, 5, 6, 18)),
        jax.random.uniform(keys[2], (DEVICES, 1, 5, 6, 9)),
        jax.random.normal(keys[3], (3, 3, 4, 6)),
    )


def loss(x, offsets, masks, kernel):
    return jnp.square(convolve(x, offsets, masks, kernel)).mean()


gradients = jax.grad(loss, (0, 1, 2, 3))


@pytest.fixture(scope="module")
def expected(operands):
    """Gradients of the mean of the losses of all devices."""
    *maps, kernel = operands
    joined = [array.reshape(-1, *array.shape[2:]) for array in maps]
    *dmaps, dkernel = jit(gradients)(*joined, kernel)
    return (*(d.reshape(array.shape) for d, array in zip(dmaps, maps, strict=True)), dkernel)


def check(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_vmap(operands, expected):
    *maps, kernel = operands
    *dmaps, dkernel = jit(jax.vmap(gradients, (0, 0, 0, None)))(*maps, kernel)
    check([d / DEVICES for d in dmaps] + [dkernel.mean(axis=0)], expected)


def test_vmap_over_kernels(operands):
    x, offsets, masks, kernel = operands
    kernels = jnp.stack([kernel, 2 * kernel])
    y = jit(jax.vmap(convolve, (None, None, None, 0)))(x[0], offsets[0], masks[0], kernels)
    np.testing.assert_allclose(y[1], 2 * y[0], rtol=1e-5)


def test_pmap(operands, expected):
    def step(x, offsets, masks, kernel):
        *dmaps, dkernel = gradients(x, offsets, masks, kernel)
        return *dmaps, jax.lax.pmean(dkernel, "devices")

    run = jax.pmap(step, "devices", in_axes=(0, 0, 0, None), out_axes=(0, 0, 0, None))
    *dmaps, dkernel = run(*operands)
    check([d / DEVICES for d in dmaps] + [dkernel], expected)


def test_checkpoint_inside_a_scan_that_is_jitted_and_called_twice(operands, expected):
    *maps, kernel = operands

    def total(x, offsets, masks, kernel):
        def add(sum_, one):
            return sum_ + jax.checkpoint(loss)(*one, kernel), None

        return jax.lax.scan(add, 0.0, (x, offsets, masks))[0] / DEVICES

    run = jit(jax.grad(total, (0, 1, 2, 3)))
    check(run(*maps, kernel), expected)
    check(run(*maps, 2 * kernel)[3:], [2 * expected[3]])


def test_strict_promotion(operands):
    x, offsets, masks, kernel = (array.astype(jnp.bfloat16) for array in operands)
    with jax.numpy_dtype_promotion("strict"):
        run = jit(jax.grad(lambda *arrays: convolve(*arrays).sum(), (0, 1, 2, 3)))
        found = run(x[0], offsets[0].astype(jnp.float32), masks[0], kernel)
    assert [d.dtype for d in found] == ["bfloat16", "float32", "bfloat16", "bfloat16"]


def half_a_convolution(variables, x, **options):
    layer = nn.Conv(6, (3, 3), use_bias=False, **options)
    return 0.5 * layer.apply({"params": {"kernel": variables["params"]["kernel"]}}, x)


@pytest.mark.parametrize(
    "options",
    [{}, {"strides": 2}, {"groups": 2, "deformable_groups": 4}, {"padding": 2, "dilation": 2}],
)
def test_a_new_layer_is_half_a_convolution(options):
    layer = ModulatedDeformableConv(6, **options)
    x = jax.random.normal(jax.random.key(1), (2, 8, 7, 4))
    y, variables = jit(layer.init_with_output)(jax.random.key(0), x)
    expected = half_a_convolution(
        variables,
        x,
        padding=layer.padding,
        strides=layer.strides,
        kernel_dilation=layer.dilation,
        feature_group_count=layer.groups,
    )
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_parameters():
    layer = ModulatedDeformableConv(6, groups=2, deformable_groups=2)
    x = jax.ShapeDtypeStruct((1, 5, 5, 4), jnp.float32)
    variables = jax.eval_shape(layer.init, jax.random.key(0), x)
    shapes = jax.tree.map(lambda leaf: leaf.shape, variables["params"])
    assert shapes == {
        "kernel": (3, 3, 2, 6),
        "conv_offset": {"kernel": (3, 3, 4, 54), "bias": (54,)},
    }


def test_the_last_third_of_conv_offset_are_logits_of_masks_and_the_rest_offsets():
    layer = ModulatedDeformableConv(1, kernel_size=1, padding=0)
    x = jnp.arange(6.0).reshape(1, 1, 6, 1)
    params = {
        "kernel": jnp.ones((1, 1, 1, 1)),
        "conv_offset": {"kernel": jnp.zeros((1, 1, 1, 3)), "bias": jnp.array([0, 1.5, 2])},
    }
    y = jit(layer.apply)({"params": params}, x)[0, 0, :, 0]
    sampled = np.array([1.5, 2.5, 3.5, 4.5, 2.5, 0])
    np.testing.assert_allclose(y, sampled / (1 + np.exp(-2)), rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "of_x", "result"),
    [
        (None, "float32", "float32"),
        (None, "bfloat16", "float32"),  # the parameters are float32
        ("bfloat16", "float32", "bfloat16"),
        ("float32", "bfloat16", "float32"),
    ],
)
def test_dtype_is_the_dtype_of_the_computation_but_for_the_offsets(dtype, of_x, result):
    layer = ModulatedDeformableConv(2, dtype=dtype)

    def run(x):
        variables = layer.init(jax.random.key(0), x)
        return variables, layer.apply(variables, x, capture_intermediates=True)

    variables, (y, state) = jax.eval_shape(run, jax.ShapeDtypeStruct((1, 4, 4, 2), of_x))
    assert y.dtype == result
    (predicted,) = state["intermediates"]["conv_offset"]["__call__"]
    assert predicted.dtype == "float32"
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}


def test_a_bfloat16_layer_keeps_a_sixteenth_of_a_pixel_far_from_the_origin():
    layer = ModulatedDeformableConv(1, kernel_size=1, padding=0, dtype=jnp.bfloat16)
    x = (jnp.arange(1344.0) % 2).reshape(1, 1, 1344, 1)
    params = {
        "kernel": jnp.ones((1, 1, 1, 1)),
        "conv_offset": {"kernel": jnp.zeros((1, 1, 1, 3)), "bias": jnp.array([0, 1 / 16, 30])},
    }
    assert jit(layer.apply)({"params": params}, x)[0, 0, 1300, 0] == 1 / 16


def test_an_error_of_the_layer_names_the_setting():
    layer = ModulatedDeformableConv(6, groups=4)
    with pytest.raises(ValueError, match="groups must divide 8 channels and 6 features, got 4"):
        jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((1, 4, 4, 8)))


@pytest.mark.parametrize("with_gradients", [False, True])
def test_temporaries_take_at_most_four_times_the_memory_of_operands_and_results(with_gradients):
    """Patches of all taps, or all samples kept for the backward pass, would take 9 times x."""
    shapes = (1, 80, 80, 32), (1, 80, 80, 18), (1, 80, 80, 9), (3, 3, 32, 32)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    program = gradients if with_gradients else convolve
    memory = jit(program).lower(*arrays).compile().memory_analysis()
    given = memory.argument_size_in_bytes + memory.output_size_in_bytes
    assert memory.temp_size_in_bytes <= 4 * given
