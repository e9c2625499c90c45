"""Values, gradients, dtypes and errors of the modulated deformable convolution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.models.deformable_convolution import modulated_deformable_convolution
from tests.compilation import jit
from tests.experiments.models import deformable_loops as loops


@functools.cache
def compiled(**settings):
    """The operator and its gradients for a cotangent, compiled."""

    def run(x, offsets, masks, kernel, dy):
        function = functools.partial(modulated_deformable_convolution, **settings)
        y, pullback = jax.vjp(function, x, offsets, masks, kernel)
        return y, pullback(dy)

    return jit(run)


def operands(seed, batch, size, channels, features, taps, spread=1.5, **settings):
    """Random x, offsets, masks, kernel and cotangent in float32.

    Positions are at least 1/16 away from the pixels, where the derivative jumps.
    """
    rng = np.random.default_rng(seed)
    settings = {"stride": 1, "padding": 0, "dilation": 1, **settings}
    groups, parts = settings.pop("groups", 1), settings.pop("deformable_groups", 1)
    out = [loops.output_size(n, k, **settings) for n, k in zip(size, taps, strict=True)]
    samples = parts * taps[0] * taps[1]
    offsets = rng.normal(scale=spread, size=(batch, *out, 2 * samples))
    offsets = np.floor(offsets) + rng.uniform(1 / 16, 15 / 16, offsets.shape)
    return tuple(
        np.asarray(array, np.float32)
        for array in (
            rng.normal(size=(batch, *size, channels)),
            offsets,
            rng.uniform(size=(batch, *out, samples)),
            rng.normal(size=(*taps, channels // groups, features)),
            rng.normal(size=(batch, *out, features)),
        )
    )


def check_against_loops(arrays, **settings):
    *arrays, dy = arrays
    oracle = functools.partial(loops.convolve, **settings)
    y, gradients = compiled(**settings)(*arrays, dy)
    np.testing.assert_allclose(y, oracle(*arrays), atol=1e-4)
    rng = np.random.default_rng(0)
    for number, gradient in enumerate(gradients):
        direction = rng.choice([-1.0, 1.0], arrays[number].shape)
        if number == 1:
            slope = loops.slope(oracle, arrays, number, direction, 1 / 64)
        else:  # the operator is linear in the other arrays
            slope = oracle(*arrays[:number], direction, *arrays[number + 1 :])
        found = (np.asarray(gradient, np.float64) * direction).sum()
        np.testing.assert_allclose(found, (slope * dy).sum(), rtol=1e-4, atol=1e-3)


@st.composite
def geometries(draw):
    groups, parts = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 2, 4]))
    return {
        "stride": draw(st.integers(1, 3)),
        "padding": draw(st.integers(0, 3)),
        "dilation": draw(st.integers(1, 2)),
        "groups": groups,
        "deformable_groups": parts,
    }


@settings(max_examples=6)
@given(
    geometry=geometries(),
    size=st.tuples(st.integers(5, 6), st.integers(5, 7)),
    taps=st.sampled_from([(3, 3), (2, 3), (1, 1)]),
    spread=st.sampled_from([0.3, 1.5, 20.0]),
    seed=st.integers(0, 2**16),
)
def test_values_and_gradients_agree_with_loops(geometry, size, taps, spread, seed):
    arrays = operands(seed, 1, size, 4, 6, taps, spread, **geometry)
    check_against_loops(arrays, **geometry)


def test_outputs_of_several_blocks_and_images_agree_with_loops():
    arrays = operands(1, 2, (33, 32), 2, 1, (1, 1), deformable_groups=2)  # more than 2048 outputs
    check_against_loops(arrays, deformable_groups=2)


def test_an_empty_batch():
    arrays = operands(0, 0, (5, 6), 4, 6, (3, 3), padding=1)
    y, gradients = compiled(padding=1)(*arrays)
    assert y.shape == (0, 5, 6, 6)
    np.testing.assert_array_equal(gradients[3], np.zeros((3, 3, 4, 6)))


def test_without_offsets_it_is_a_convolution():
    x, offsets, masks, kernel, dy = operands(0, 2, (7, 8), 4, 6, (3, 3), padding=2, stride=2)
    y, _ = compiled(padding=2, stride=2)(x, 0 * offsets, 0 * masks + 1, kernel, dy)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (2, 2), ((2, 2), (2, 2)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.fixture(scope="module")
def mmcv_results():
    """Results for rows 1, 2, 3, a 2x2 kernel of ones, padding 1, no offsets, and masks of 0.5."""
    x = np.tile(np.arange(1, 4, dtype=np.float32)[:, None], (1, 3, 1, 1))
    offsets, masks = np.zeros((1, 4, 4, 8), np.float32), np.full((1, 4, 4, 4), 0.5, np.float32)
    kernel, dy = np.ones((2, 2, 1, 1), np.float32), np.ones((1, 4, 4, 1), np.float32)
    return compiled(padding=1)(x, offsets, masks, kernel, dy)


def test_the_output_is_the_vector_of_mmcv(mmcv_results):
    ends, middle = [0.5, 1.5, 2.5, 1.5], [1, 3, 5, 3]
    np.testing.assert_array_equal(mmcv_results[0][0, :, :, 0], [ends, middle, middle, ends])


def test_the_gradients_of_map_and_kernel_are_the_vectors_of_mmcv(mmcv_results):
    dx, _, _, dkernel = mmcv_results[1]
    np.testing.assert_array_equal(dx, np.full((1, 3, 3, 1), 2.0))
    np.testing.assert_array_equal(dkernel, np.full((2, 2, 1, 1), 9.0))


def test_the_gradient_of_the_bias_is_the_vector_of_mmcv(mmcv_results):
    # All taps in the padding are exactly at -1.
    _, doffsets, dmasks, _ = mmcv_results[1]
    dsigmoid = 0.25
    np.testing.assert_array_equal(doffsets.sum(axis=(0, 1, 2)), [-3, -1.5] * 4)
    np.testing.assert_array_equal(dsigmoid * dmasks.sum(axis=(0, 1, 2)), [4.5] * 4)


@pytest.mark.parametrize("position", [-1.0, 4.0, -1.5, 1e9, -np.inf, np.nan])
def test_a_sample_outside_is_zero_and_has_no_gradients(position):
    x = np.ones((1, 4, 4, 2), np.float32)
    x[0, 0, 0] = np.inf  # must not become NaN in other samples
    offsets = np.zeros((1, 4, 4, 2), np.float32)
    offsets[0, 2, 2] = position - 2, 0
    masks, kernel = np.ones((1, 4, 4, 1), np.float32), np.ones((1, 1, 2, 1), np.float32)
    dy = np.zeros((1, 4, 4, 1), np.float32)
    dy[0, 2, 2] = 1
    y, (dx, doffsets, dmasks, _) = compiled()(x, offsets, masks, kernel, dy)
    assert y[0, 2, 2, 0] == 0
    assert (doffsets[0, 2, 2] == 0).all()
    assert dmasks[0, 2, 2, 0] == 0
    assert (dx == 0).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_sums_are_at_least_float32_and_the_result_has_the_dtype_of_x(dtype):
    with jax.enable_x64(dtype == "float64"):
        x, offsets, masks, kernel, dy = operands(2, 1, (6, 6), 64, 8, (3, 3), padding=1)
        x, kernel, dy = (jnp.asarray(array, dtype) for array in (x, kernel, dy))
        y, gradients = compiled(padding=1)(x, offsets, masks, kernel, dy)
        assert [a.dtype for a in (y, *gradients)] == [x.dtype, x.dtype, "float32", "float32", dtype]
        expected = loops.convolve(x, offsets, masks, kernel, padding=1)
        # Samples are rounded to the dtype of x before they are multiplied by the kernel.
        tolerance = {"bfloat16": 2**-7, "float16": 2**-10, "float64": 1e-6}[dtype]
        y = np.asarray(y, np.float64)
        np.testing.assert_allclose(y, expected, atol=12 * tolerance, rtol=tolerance)


def test_positions_keep_a_sixteenth_of_a_pixel_on_a_long_bfloat16_map():
    x = (jnp.arange(1344) % 2).astype(jnp.bfloat16).reshape(1, 1, 1344, 1)
    offsets = jnp.zeros((1, 1, 1344, 2)).at[0, 0, 1300, 1].set(1 / 16)
    ones = jnp.ones((1, 1, 1344, 1))
    y, (_, doffsets, _, _) = compiled()(
        x, offsets, ones, jnp.ones((1, 1, 1, 1), jnp.bfloat16), ones.astype(jnp.bfloat16)
    )
    assert y[0, 0, 1300, 0] == 1 / 16
    assert doffsets[0, 0, 1300, 1] == 1


def arrays(**changed):
    shapes = {
        "x": (2, 5, 6, 4),
        "offsets": (2, 5, 6, 18),
        "masks": (2, 5, 6, 9),
        "kernel": (3, 3, 4, 6),
        **changed,
    }
    return {name: jnp.zeros(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("changed", "settings", "message"),
    [
        ({"x": (5, 6, 4)}, {}, r"x must be \[B, H, W, C\].*\(5, 6, 4\)"),
        ({"offsets": (2, 5, 6, 9)}, {}, r"offsets .*\(2, 5, 6, 18\).*\(2, 5, 6, 9\)"),
        ({"offsets": (2, 5, 5, 18)}, {}, r"offsets .*\(2, 5, 6, 18\).*\(2, 5, 5, 18\)"),
        ({"masks": (1, 5, 6, 9)}, {}, r"masks .*\(2, 5, 6, 9\).*\(1, 5, 6, 9\)"),
        ({}, {"stride": 2}, r"offsets .*\(2, 3, 3, 18\).*\(2, 5, 6, 18\)"),
        ({}, {"deformable_groups": 2}, r"offsets .*\(2, 5, 6, 36\).*\(2, 5, 6, 18\)"),
        ({"kernel": (3, 3, 3, 6)}, {}, r"kernel .*C / groups = 4.*\(3, 3, 3, 6\)"),
        ({"kernel": (9, 4, 6)}, {}, r"kernel .*C / groups = 4.*\(9, 4, 6\)"),
        ({}, {"groups": 2}, r"kernel .*C / groups = 2.*\(3, 3, 4, 6\)"),
        ({}, {"groups": 4}, "groups must divide 4 channels and 6 features, got 4"),
        ({}, {"groups": 3}, "groups must divide 4 channels and 6 features, got 3"),
        ({}, {"deformable_groups": 3}, "deformable_groups must divide 4 channels, got 3"),
        ({}, {"stride": 1.5}, r"stride must be an integer .* got 1\.5"),
        ({}, {"padding": 0.5}, r"padding must be an integer .* got 0\.5"),
        ({}, {"stride": 0}, "stride must be .* at least 1, got 0"),
        ({}, {"dilation": 0}, "dilation must be .* at least 1, got 0"),
        ({}, {"padding": -1}, "padding must be .* at least 0, got -1"),
        ({}, {"groups": 0}, "groups must be .* at least 1, got 0"),
        ({}, {"deformable_groups": 0}, "deformable_groups must be .* at least 1, got 0"),
        ({}, {"dilation": 4}, r"x .*\(9, 9\).*\(2, 5, 6, 4\) and padding 1"),
    ],
)
def test_errors_name_the_argument_and_its_value(changed, settings, message):
    with pytest.raises(ValueError, match=message):
        modulated_deformable_convolution(**arrays(**changed), **{"padding": 1, **settings})


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("x", "int32", "x must have a floating dtype, got int32"),
        ("offsets", "bfloat16", "offsets must be float32 or float64, got bfloat16"),
        ("masks", "int32", "masks must have a floating dtype, got int32"),
        ("kernel", "bfloat16", "kernel must have the dtype of x, float32, got bfloat16"),
    ],
)
def test_errors_name_the_dtype(name, dtype, message):
    given_arrays = arrays()
    given_arrays[name] = given_arrays[name].astype(dtype)
    with pytest.raises(ValueError, match=message):
        modulated_deformable_convolution(**given_arrays, padding=1)
