import re
from typing import Any, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.engine.tables.cost import cost
from experiments.resamplers.carafe_config import CarafeConfig
from experiments.resamplers.interpolation import nearest
from experiments.resamplers.methods import GUIDED, Upsampler
from experiments.resamplers.upsamplers import upsample
from tests.compilation import jit
from tests.experiments.resamplers import loops
from tests.experiments.variables import random_variables
from tests.slow import slow

# Variants with the code of another method are slow tests.
VARIANTS = ("dysample_plus", "fade_lite")
METHODS = [slow(name) if name in VARIANTS else name for name in get_args(Upsampler)]
KEY = jax.random.key(0, impl="rbg")


class Upsample(nn.Module):
    method: Upsampler
    options: Any = ()

    @nn.compact
    def __call__(self, x):
        options = dict(self.options)
        if self.method in GUIDED:
            rows, columns = options.get("size", (2 * x.shape[1], 2 * x.shape[2]))
            options["guide"] = nearest(x)[:, :rows, :columns]
        return upsample(x, self.method, name="resample", **options)


def random_map(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=4)
@given(
    rows=st.integers(1, 4), columns=st.integers(1, 4), odd=st.tuples(st.booleans(), st.booleans())
)
def test_a_target_size_crops_the_end(method, rows, columns, odd):
    x = jax.ShapeDtypeStruct((2, rows, columns, 4), jnp.float32)
    size = (2 * rows - odd[0], 2 * columns - odd[1])
    layer = Upsample(method, (("size", size),))
    y, _ = jax.eval_shape(layer.init_with_output, KEY, x)
    assert y.shape == (2, *size, 4)


@pytest.mark.parametrize("method", METHODS)
def test_13_becomes_26_or_25(method):
    x = random_map(1, 13, 3, 4)
    whole, cropped = Upsample(method), Upsample(method, (("size", (25, 6)),))
    variables = random_variables(whole, x)
    y, end_cropped = jit(lambda v, x: (whole.apply(v, x), cropped.apply(v, x)))(variables, x)
    assert y.shape == (1, 26, 6, 4)
    # The border of a cropped guide is the border of the cropped map.
    compared = slice(0, 24 if method in ("fade", "fade_lite") else 25)
    np.testing.assert_allclose(end_cropped[:, compared], y[:, compared], atol=1e-6)


@pytest.mark.parametrize("method", ["nearest_conv", "bilinear_conv"])
def test_a_convolution_follows_the_interpolation(method):
    x = random_map(2, 3, 4, 2)
    variables = random_variables(Upsample(method), x)
    params = variables["params"]["resample"]
    interpolated = getattr(loops, method.removesuffix("_conv"))(x)
    expected = loops.convolve(interpolated, params["kernel"]) + params["bias"]
    y = jit(Upsample(method).apply)(variables, x)
    np.testing.assert_allclose(y, expected, atol=2e-5)


@pytest.mark.parametrize(
    ("method", "kernel_size", "targets"), [("deconvolution", 3, 1), ("pixel_shuffle", 3, 4)]
)
def test_the_convolutions_keep_channels_and_use_the_initializer(method, kernel_size, targets):
    options = (("kernel_init", nn.initializers.constant(0.5)),)
    variables = jit(Upsample(method, options).init)(KEY, random_map(1, 2, 2, 3))
    (params,) = variables["params"]["resample"].values()
    assert params["kernel"].shape == (kernel_size, kernel_size, 3, 3 * targets)
    assert (params["kernel"] == 0.5).all()
    assert (params["bias"] == 0).all()


def test_the_deconvolution_of_the_mask_head_has_a_2x2_kernel():
    layer = Upsample("deconvolution", (("deconvolution_size", 2),))
    variables = jax.eval_shape(layer.init, KEY, random_map(1, 2, 2, 3))
    kernel = variables["params"]["resample"]["ConvTranspose_0"]["kernel"]
    assert kernel.shape == (2, 2, 3, 3)


def test_carafe_starts_near_a_box_filter():
    x = random_map(1, 12, 12, 1)
    y, _ = jit(Upsample("carafe").init_with_output)(KEY, x)
    means = [[x[0, i - 2 : i + 3, j - 2 : j + 3, 0].mean() for j in (4, 6)] for i in (4, 6)]
    np.testing.assert_allclose(y[0, 8:13:4, 8:13:4, 0], means, atol=2e-2)


def test_carafe_has_the_sizes_of_its_config():
    config = CarafeConfig(None, 1, 3, "sigmoid")
    x = random_map(1, 4, 4, 2)
    layer = Upsample("carafe", (("carafe", config),))
    y, variables = jit(layer.init_with_output)(KEY, x)
    predictor = variables["params"]["resample"]["kernel_predictor"]
    assert set(predictor) == {"content_encoder"}
    assert predictor["content_encoder"]["kernel"].shape == (1, 1, 2, 4 * 9)
    # Each of the nine weights starts at the sigmoid of zero.
    np.testing.assert_allclose(y[0, 2:4, 2:4, 0], x[0, :3, :3, 0].sum() / 2, atol=2e-2)


@pytest.mark.parametrize("method", METHODS)
def test_by_default_the_result_has_the_dtype_of_the_map(method):
    x = jax.ShapeDtypeStruct((1, 3, 2, 4), jnp.bfloat16)
    y, _ = jax.eval_shape(Upsample(method).init_with_output, KEY, x)
    assert y.dtype == jnp.bfloat16


@pytest.mark.parametrize("method", METHODS)
def test_gradients_in_bfloat16(method):
    layer = Upsample(method, (("dtype", jnp.bfloat16),))
    x = random_map(1, 3, 2, 4)
    variables = jit(layer.lazy_init)(KEY, x)

    def loss(variables, x):
        y = layer.apply(variables, x)
        assert y.dtype == jnp.bfloat16
        return jnp.square(y.astype(jnp.float32) - 1).sum()

    gradients, x_gradient = jit(jax.grad(loss, (0, 1)))(variables, x)
    assert x_gradient.dtype == jnp.float32
    for leaf in jax.tree.leaves(gradients):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0
    assert np.abs(x_gradient).min() > 0


C, HEIGHT, WIDTH = 256, 5, 6
# Number of parameters, and of operations for an output pixel.
CONVOLUTION = 18 * C**2 + C
COSTS = {
    "nearest": (0, 0),
    "nearest_conv": (9 * C**2 + C, CONVOLUTION),
    "deconvolution": (9 * C**2 + C, 9 * C**2 // 2 + C),
    "pixel_shuffle": (4 * (9 * C**2 + C), CONVOLUTION),
    "guided": (72 * C + 8, 43 * C + 24),
    "spatial_attention": (9 * C + 1, 19 * C + 2),
    "carafe": (64 * C + 64 + 100 * (9 * 64 + 1), 49_703),
    "static_kernels": (100, 49 * C),
    "encoded_box": (64 * C + 64 + 100 * (9 * 64 + 1), 49_703 - 126 + C),
    "dysample": (32 * C, 23 * C + 96),
    "dysample_plus": (64 * C, 39 * C + 112),
    "fade": (129 * C + 14_490, 212.5 * C + 36_247.75),
    "fade_lite": (51 * C + 276, 115 * C + 771.25),
    "sapa": (68 * C + 64, 137.75 * C + 975),
}


@pytest.mark.parametrize("method", METHODS)
def test_cost(method):
    x = jax.ShapeDtypeStruct((2, HEIGHT, WIDTH, C), jnp.float32)
    outputs = 2 * 4 * HEIGHT * WIDTH
    found = cost(Upsample(method), x)
    if method.startswith("bilinear"):
        products = 4 * 2 * HEIGHT * WIDTH * C * min(HEIGHT + 2 * WIDTH, 2 * HEIGHT + WIDTH)
        parameters = 0 if method == "bilinear" else 9 * C**2 + C
        convolution = 0 if method == "bilinear" else outputs * CONVOLUTION
        assert found.parameters == parameters
        # The elements of two small matrices are counted too.
        assert products <= found.flops - convolution < 1.01 * products
    else:
        parameters, flops = COSTS[method]
        # The softmax of the four static kernels is computed once.
        once = 4 * 126 if method == "static_kernels" else 0
        assert found.parameters == parameters
        # LayerNorm of SAPA has operations for each pixel, which the formula rounds.
        rounding = 1e-5 if method == "sapa" else 0
        assert found.flops == pytest.approx(outputs * flops + once, rel=rounding, abs=0)


@pytest.mark.parametrize("size", [(27, 6), (24, 6), (26, 4), (26, 7)])
def test_a_size_that_is_not_the_double_is_refused(size):
    with pytest.raises(ValueError, match=rf"size.*\(13, 3\).*{re.escape(str(size))}"):
        Upsample("nearest", (("size", size),)).apply({}, random_map(1, 13, 3, 2))


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match=r"method.*carafe.*'bicubic'"):
        Upsample("bicubic").apply({}, random_map(1, 2, 2, 1))


@pytest.mark.parametrize("guide", [None, np.zeros((1, 4, 4, 2)), np.zeros((1, 4, 2))], ids=str)
def test_a_guide_that_is_missing_or_does_not_fit_is_named(guide):
    with pytest.raises(ValueError, match=r"guide"):
        upsample(random_map(1, 2, 3, 2), "sapa", name="resample", guide=guide)
