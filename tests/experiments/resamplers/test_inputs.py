"""Dtypes, kinds of arrays, ranks and integers that resamplers take or refuse."""

import functools
import re
from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.resamplers.convolutions import Deconvolution, PixelShuffle, depth_to_space
from experiments.resamplers.downsamplers import pool
from experiments.resamplers.dpp import detail_preserving_pool
from experiments.resamplers.dysample import DySample
from experiments.resamplers.guided import GuidedUpsample
from experiments.resamplers.interpolation import bilinear, nearest, resize
from experiments.resamplers.lip import SimplifiedLIP, local_importance_pool
from experiments.resamplers.methods import GUIDED, Downsampler, Upsampler
from experiments.resamplers.pooling import (
    adaptive_avg_pool,
    avg_pool,
    max_pool,
    window_mean,
    window_sum,
)
from experiments.resamplers.sampling import sample
from experiments.resamplers.spatial_attention import SpatialAttentionUpsample
from experiments.resamplers.upsamplers import upsample
from tests.array_likes import ARRAY_LIKES
from tests.experiments.variables import random_variables
from tests.slow import slow

DTYPES = [slow(jnp.float32), jnp.bfloat16, slow(jnp.float16)]
POOLS = [f"down {method}" for method in get_args(Downsampler) if method != "strided"]
UPSAMPLERS = [f"up {method}" for method in get_args(Upsampler)]
TO_A_SIZE = {
    "resize": resize,
    "resize with aligned corners": functools.partial(resize, align_corners=True),
    "adaptive_avg_pool": adaptive_avg_pool,
}
FUNCTIONS = {
    "nearest": nearest,
    "bilinear": bilinear,
    "max_pool": max_pool,
    "avg_pool": avg_pool,
    "window_sum": window_sum,
    "window_mean": window_mean,
    "depth_to_space": functools.partial(depth_to_space, factor=2),
    **{name: functools.partial(function, size=(5, 3)) for name, function in TO_A_SIZE.items()},
}
MODULES = {
    "guided": GuidedUpsample(),
    "spatial_attention": SpatialAttentionUpsample(),
    "dysample": DySample(),
    "lip": SimplifiedLIP(),
}


class Resample(nn.Module):
    method: str
    dtype: jax.typing.DTypeLike | None = None
    size: tuple[int, int] | None = None

    @nn.compact
    def __call__(self, x):
        direction, method = self.method.split()
        if direction == "down":
            return pool(x, method, name="resample", dtype=self.dtype)
        guide = x.repeat(2, 1).repeat(2, 2) if method in GUIDED and jnp.ndim(x) == 4 else None
        return upsample(x, method, name="resample", dtype=self.dtype, size=self.size, guide=guide)


def random_map(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


# Scales of another dtype than float32 fail in Flax's InstanceNorm.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (method, parameters)
        for method in [*POOLS, *UPSAMPLERS]
        for parameters in (("float32",) if method == "down lip" else ("float32", "same"))
    ],
)
def test_no_dtype_is_promoted(method, parameters, dtype):
    x = jax.ShapeDtypeStruct((2, 4, 6, 4), dtype)
    param_dtype = dtype if parameters == "same" else jnp.float32
    layer = Resample(method, dtype if parameters == "float32" else None)
    variables = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, param_dtype),
        jax.eval_shape(layer.init, jax.random.key(0), x),
    )

    def loss(variables, x):
        y = layer.apply(variables, x)
        assert y.dtype == dtype
        return y.astype(jnp.float32).sum()

    with jax.numpy_dtype_promotion("strict"):
        gradients = jax.eval_shape(jax.grad(loss, (0, 1)), variables, x)
    assert all(leaf.dtype == param_dtype for leaf in jax.tree.leaves(gradients[0]))


@pytest.mark.parametrize("of", ARRAY_LIKES.values(), ids=ARRAY_LIKES)
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions_take_what_converts_to_an_array(function, of):
    x = random_map(1, 3, 2, 4)
    y = function(of(x))
    assert isinstance(y, jax.Array)
    np.testing.assert_array_equal(y, function(jnp.asarray(x)))


@pytest.mark.parametrize("of", ARRAY_LIKES.values(), ids=ARRAY_LIKES)
def test_functions_of_several_arrays_take_what_converts_to_an_array(of):
    x, positions, channels = random_map(1, 3, 2, 4), random_map(1, 2, 3, 2, 2), random_map(4)
    for function, arrays in [
        (sample, (x, positions)),
        (local_importance_pool, (x, x)),
        (detail_preserving_pool, (x, channels, channels)),
    ]:
        y = function(*map(of, arrays))
        assert isinstance(y, jax.Array)
        np.testing.assert_array_equal(y, function(*map(jnp.asarray, arrays)))


@pytest.mark.parametrize("of", ARRAY_LIKES.values(), ids=ARRAY_LIKES)
def test_upsample_takes_what_converts_to_an_array(of):
    x = random_map(1, 3, 2, 4)
    for method in ("up nearest", "up deconvolution", "up spatial_attention"):
        layer = Resample(method)
        variables = jax.eval_shape(layer.init, jax.random.key(0), x)
        y = jax.eval_shape(lambda v, layer=layer: layer.apply(v, of(x)), variables)
        assert y.shape == (1, 6, 4, 4)


# Max pooling also takes integers.
@pytest.mark.parametrize("method", sorted({*POOLS, *UPSAMPLERS} - {"down max_pool"}))
def test_maps_of_integers_are_refused(method):
    x = jax.ShapeDtypeStruct((1, 4, 6, 4), jnp.uint8)
    with pytest.raises(ValueError, match=r"x must .*float.*uint8"):
        jax.eval_shape(Resample(method).init, jax.random.key(0), x)


@pytest.mark.parametrize("method", UPSAMPLERS)
def test_upsample_takes_integers_if_it_has_a_dtype(method):
    x = jax.ShapeDtypeStruct((1, 4, 6, 4), jnp.uint8)
    layer = Resample(method, jnp.float32)
    y, _ = jax.eval_shape(layer.init_with_output, jax.random.key(0), x)
    assert (y.shape, y.dtype) == ((1, 8, 12, 4), jnp.float32)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (2, 2, 4, 4, 4)], ids=str)
@pytest.mark.parametrize(
    "function",
    [nearest, bilinear, avg_pool, window_sum, window_mean],
)
def test_functions_name_a_map_of_another_rank(function, shape):
    with pytest.raises(ValueError, match=rf"x must be \[B, H, W, C\].*{re.escape(str(shape))}"):
        function(jnp.ones(shape))


@pytest.mark.parametrize("function", TO_A_SIZE.values(), ids=TO_A_SIZE)
@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [
        ((4, 4, 4), (2, 2), r"x must be \[B, H, W, C\].*\(4, 4, 4\)"),
        ((1, 0, 4, 2), (2, 2), r"x must have.*at least 1.*\(1, 0, 4, 2\)"),
        ((1, 4, 0, 2), (2, 2), r"x must have.*at least 1.*\(1, 4, 0, 2\)"),
        ((1, 4, 4, 2), (0, 2), r"size.*at least 1.* 0$"),
        ((1, 4, 4, 2), (2, 2.0), r"size.*at least 1.*2\.0$"),
        ((1, 4, 4, 2), (2, 2, 2), r"size must be two integers.*\(2, 2, 2\)"),
        ((1, 4, 4, 2), 2, r"size must be two integers.* 2$"),
    ],
)
def test_functions_to_a_size_name_what_does_not_fit(function, shape, size, message):
    with pytest.raises(ValueError, match=message):
        function(jnp.ones(shape), size)


@pytest.mark.parametrize("shape", [(4, 4, 4), (2, 2, 4, 4, 4)], ids=str)
@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_modules_name_a_map_of_another_rank(module, shape):
    with pytest.raises(ValueError, match=r"x must be \[B, H, W, C\]"):
        jax.eval_shape(module.init, jax.random.key(0), jnp.ones(shape))


@pytest.mark.parametrize("method", ["down avg_pool", "down dpp", "down lip", *UPSAMPLERS])
def test_methods_name_a_map_of_another_rank(method):
    with pytest.raises(ValueError, match=r"x must be \[B, H, W, C\].*\(4, 4, 4\)"):
        jax.eval_shape(Resample(method).init, jax.random.key(0), jnp.ones((4, 4, 4)))


def test_functions_of_several_arrays_name_a_map_of_another_rank():
    x, channels = jnp.ones((4, 4, 4)), jnp.ones(4)
    for function, arrays in [
        (sample, (x, jnp.ones((1, 2, 2, 1, 2)))),
        (local_importance_pool, (x, x)),
        (detail_preserving_pool, (x, channels, channels)),
    ]:
        with pytest.raises(ValueError, match=r"x must be \[B, H, W, C\].*\(4, 4, 4\)"):
            function(*arrays)


@pytest.mark.parametrize("shape", [(1, 4, 3, 1, 2), (2, 4, 3, 1, 3), (2, 4, 3, 2)], ids=str)
def test_positions_of_another_shape_are_named(shape):
    with pytest.raises(ValueError, match=r"positions must be.*B = 2"):
        sample(jnp.ones((2, 4, 4, 3)), jnp.ones(shape))


@pytest.mark.parametrize("groups", [0, 2])
def test_groups_that_do_not_divide_the_channels_are_named(groups):
    with pytest.raises(ValueError, match=rf"positions.*3 channels.*{groups}"):
        sample(jnp.ones((2, 4, 4, 3)), jnp.ones((2, 4, 4, groups, 2)))


@pytest.mark.parametrize("kernel_size", [2, 3])
@pytest.mark.parametrize("axes", [(), (2, 3)], ids=str)
def test_convolutions_take_any_number_of_batch_axes(axes, kernel_size):
    x = random_map(*axes, 2, 3, 4)
    batch = x.reshape(-1, 2, 3, 4)
    for layer in (Deconvolution(5, kernel_size), PixelShuffle(5)):
        variables = random_variables(layer, batch)
        y = layer.apply(variables, x)
        assert y.shape == (*axes, 4, 6, 5)
        expected = layer.apply(variables, batch)
        np.testing.assert_allclose(y.reshape(-1, 4, 6, 5), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("integer", [np.int64, np.uint8])
def test_integers_may_be_of_numpy(integer):
    x = jax.ShapeDtypeStruct((1, 3, 2, 4), jnp.float32)
    two, three = integer(2), integer(3)
    layers = [
        Resample("up nearest", size=(integer(6), integer(4))),
        Deconvolution(4, two),
        Deconvolution(4, three),
    ]
    for layer in layers:
        y, _ = jax.eval_shape(layer.init_with_output, jax.random.key(0), x)
        assert y.shape == (1, 6, 4, 4)
    assert jax.eval_shape(lambda x: depth_to_space(x, two), x).shape == (1, 6, 4, 1)


@pytest.mark.parametrize("factor", [0, 1.5, 3])
def test_a_factor_that_does_not_fit_is_named(factor):
    with pytest.raises(ValueError, match=rf"factor.*{factor}"):
        depth_to_space(jnp.ones((1, 2, 2, 4)), factor)


@pytest.mark.parametrize("size", [(6.0, 4), (6, 4, 4), 6], ids=str)
def test_a_size_that_is_no_pair_of_integers_is_named(size):
    with pytest.raises(ValueError, match=rf"size.*{re.escape(str(size))}"):
        upsample(jnp.ones((1, 3, 2, 1)), "nearest", name="resample", size=size)


@pytest.mark.parametrize("kernel_size", [2.0, 1, True, np.array(2)])
def test_a_kernel_size_that_is_no_integer_of_at_least_2_is_named(kernel_size):
    with pytest.raises(ValueError, match=rf"kernel_size.*{kernel_size}"):
        Deconvolution(4, kernel_size).apply({}, jnp.ones((1, 2, 2, 1)))
