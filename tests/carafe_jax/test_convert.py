"""Conversion from and to mmcv, compared with slow float64 loops over what mmcv computes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import carafe_jax
from carafe_jax import convert
from tests.kernels import oracle
from tests.kernels.errors import naming
from tests.slow import slow

CHANNELS, COMPRESSED = 6, 4


class Pack(NamedTuple):
    """Options of a `CARAFEPack`."""

    up_kernel: int = 3
    scale_factor: int = 2
    up_group: int = 2
    encoder_kernel: int = 3
    encoder_dilation: int = 1

    @property
    def reassembly(self):
        return {
            "kernel_size": self.up_kernel,
            "up": self.scale_factor,
            "groups": self.up_group,
        }

    @property
    def layer(self):
        return {
            **self.reassembly,
            "encoder_size": self.encoder_kernel,
            "encoder_dilation": self.encoder_dilation,
            "compressed_channels": COMPRESSED,
        }

    @property
    def kernel_channels(self):
        return self.up_group * self.up_kernel**2

    @property
    def logit_channels(self):
        return self.kernel_channels * self.scale_factor**2


PACKS = [Pack(), Pack(5, 2, 1), Pack(1, 3, 3), Pack(3, 1, 2), Pack(3, 4, 1, 1, 1)]
LAYERS = [Pack(encoder_dilation=2), Pack(5, 2, 1), slow(Pack(3, 3, 2, 5)), slow(Pack(3, 1, 2, 1))]
DTYPES = ["float32", "bfloat16", "float16"]

each_pack = pytest.mark.parametrize("pack", PACKS, ids=str)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def values(*shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(jnp.dtype(dtype))


def state_dict(pack, dtype="float32"):
    shapes = {
        "channel_compressor.weight": (COMPRESSED, CHANNELS, 1, 1),
        "channel_compressor.bias": (COMPRESSED,),
        "content_encoder.weight": (
            *(pack.logit_channels, COMPRESSED),
            *(pack.encoder_kernel, pack.encoder_kernel),
        ),
        "content_encoder.bias": (pack.logit_channels,),
    }
    return {
        name: values(*shape, dtype=dtype, seed=seed)
        for seed, (name, shape) in enumerate(shapes.items())
    }


def convolve(x, weight, bias, dilation=1):
    """A convolution of ``[N, C, H, W]`` that keeps the size, tap by tap."""
    batch, _, height, width = x.shape
    features, _, rows, columns = weight.shape
    y = np.zeros((batch, features, height, width)) + np.float64(bias)[:, None, None]
    for i, j, row, column in np.ndindex(height, width, rows, columns):
        below = i + dilation * (row - rows // 2)
        beside = j + dilation * (column - columns // 2)
        if 0 <= below < height and 0 <= beside < width:
            y[:, :, i, j] += x[:, :, below, beside] @ np.float64(weight[:, :, row, column]).T
    return y


def pixel_shuffle(x, up):
    """Channel ``(c * up + sy) * up + sx`` at a pixel becomes channel ``c`` of its output."""
    batch, channels, height, width = x.shape
    y = np.zeros((batch, channels // up**2, up * height, up * width))
    for c in range(channels // up**2):
        for sy in range(up):
            for sx in range(up):
                y[:, c, sy::up, sx::up] = x[:, (c * up + sy) * up + sx]
    return y


def normalize(logits, pack):
    """Masks ``[N, groups * k * k, H', W']`` from logits before the shuffle."""
    masks = pixel_shuffle(np.float64(logits), pack.scale_factor)
    taps = pack.up_kernel**2
    for g in range(pack.up_group):
        group = masks[:, g * taps : (g + 1) * taps]
        exponentials = np.exp(group - group.max(axis=1, keepdims=True))
        masks[:, g * taps : (g + 1) * taps] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return masks


def reassemble(x, masks, pack):
    batch, channels, height, width = x.shape
    k, up = pack.up_kernel, pack.scale_factor
    y = np.zeros((batch, channels, up * height, up * width))
    for i, j, n, m, c in np.ndindex(up * height, up * width, k, k, channels):
        row, column = i // up + n - k // 2, j // up + m - k // 2
        if 0 <= row < height and 0 <= column < width:
            g = c // (channels // pack.up_group)
            y[:, c, i, j] += masks[:, (g * k + n) * k + m, i, j] * x[:, c, row, column]
    return y


def upsample(x, state_dict, pack):
    """What `CARAFEPack` computes."""
    compressed = convolve(
        x, state_dict["channel_compressor.weight"], state_dict["channel_compressor.bias"]
    )
    logits = convolve(
        compressed,
        state_dict["content_encoder.weight"],
        state_dict["content_encoder.bias"],
        pack.encoder_dilation,
    )
    return reassemble(x, normalize(logits, pack), pack)


def channels_last(array):
    return np.moveaxis(array, -3, -1)


def assert_same_bits(actual, desired):
    actual, desired = np.asarray(actual), np.asarray(desired)
    assert (actual.dtype, actual.shape) == (desired.dtype, desired.shape)
    assert actual.tobytes() == desired.tobytes()


@each_dtype
@each_pack
def test_kernels_and_logits_survive_a_round_trip(pack, dtype):
    masks = values(2, pack.kernel_channels, 4, 6, dtype=dtype)
    weights = convert.kernels_from_mmcv(masks)
    assert weights.shape == (2, 4, 6, pack.kernel_channels)
    assert_same_bits(convert.kernels_to_mmcv(weights), masks)

    mmcv = values(2, pack.logit_channels, 4, 5, dtype=dtype)
    logits = convert.logits_from_mmcv(mmcv, **pack.reassembly)
    assert logits.shape == (2, 4, 5, pack.logit_channels)
    assert_same_bits(convert.logits_to_mmcv(logits, **pack.reassembly), mmcv)


@each_dtype
@each_pack
def test_parameters_survive_a_round_trip(pack, dtype):
    original = state_dict(pack, dtype)
    params = convert.params_from_mmcv(original, **pack.reassembly)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
    returned = convert.params_to_mmcv(params, **pack.reassembly)
    assert returned.keys() == original.keys()
    for name, array in returned.items():
        assert_same_bits(array, original[name])
        assert array.flags.c_contiguous
        assert array.flags.writeable  # else torch.from_numpy warns


@each_pack
def test_channels_of_logits_are_in_the_documented_order(pack):
    mmcv = values(1, pack.logit_channels, 2, 3)
    logits = np.asarray(convert.logits_from_mmcv(mmcv, **pack.reassembly))
    up, taps = pack.scale_factor, pack.up_kernel**2
    for sy, sx, g, tap in np.ndindex(up, up, pack.up_group, taps):
        channel = ((sy * up + sx) * pack.up_group + g) * taps + tap
        mmcv_channel = ((g * taps + tap) * up + sy) * up + sx
        np.testing.assert_array_equal(logits[..., channel], mmcv[:, mmcv_channel])


@each_pack
def test_converted_kernels_and_logits_upsample_as_in_mmcv(pack):
    x, mmcv = values(2, CHANNELS, 4, 5), values(2, pack.logit_channels, 4, 5, seed=1)
    masks = normalize(mmcv, pack)
    expected = channels_last(reassemble(x, masks, pack))

    logits = convert.logits_from_mmcv(mmcv, **pack.reassembly)
    y = carafe_jax.carafe(channels_last(x), logits, **pack.reassembly)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)

    weights = convert.kernels_from_mmcv(np.float32(masks))
    y = carafe_jax.reassemble(channels_last(x), weights, **pack.reassembly)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        oracle.kernels(logits, x.shape[2:], "softmax", **pack.reassembly), weights, rtol=1e-5
    )


@pytest.mark.parametrize("pack", LAYERS, ids=str)
def test_layers_of_converted_parameters_upsample_as_in_mmcv(pack):
    x, mmcv = values(1, CHANNELS, 4, 5), state_dict(pack)
    expected = channels_last(upsample(x, mmcv, pack))
    params = convert.params_from_mmcv(mmcv, **pack.reassembly)

    linen = carafe_jax.linen.CARAFE(**pack.layer)
    y = jax.jit(linen.apply)({"params": params}, channels_last(x))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)

    layer = carafe_jax.nnx.CARAFE(CHANNELS, **pack.layer, rngs=nnx.Rngs(0))
    nnx.update(layer, params)
    np.testing.assert_array_equal(nnx.jit(lambda layer, x: layer(x))(layer, channels_last(x)), y)
    for tree in (nnx.state(layer, nnx.Param), nnx.to_pure_dict(nnx.state(layer, nnx.Param))):
        for name, array in convert.params_to_mmcv(tree, **pack.reassembly).items():
            assert_same_bits(array, mmcv[name])


def test_parameters_of_a_new_layer_become_a_state_dict():
    pack = Pack()
    linen = carafe_jax.linen.CARAFE(**pack.layer)
    params = linen.init(jax.random.key(0), jnp.zeros((1, 4, 4, CHANNELS)))["params"]
    mmcv = convert.params_to_mmcv(params, **pack.reassembly)
    expected = state_dict(pack)
    assert {name: array.shape for name, array in mmcv.items()} == {
        name: array.shape for name, array in expected.items()
    }
    jax.tree.map(assert_same_bits, convert.params_from_mmcv(mmcv, **pack.reassembly), params)


def test_parameters_in_half_precision_keep_their_dtype_in_layers():
    pack = Pack()
    params = convert.params_from_mmcv(state_dict(pack, "bfloat16"), **pack.reassembly)
    layer = carafe_jax.nnx.CARAFE(
        CHANNELS, **pack.layer, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0)
    )
    expected = jax.tree.map(lambda leaf: leaf.dtype, nnx.to_pure_dict(nnx.state(layer, nnx.Param)))
    assert jax.tree.map(lambda leaf: leaf.dtype, params) == expected


@pytest.mark.parametrize("leading", [(), (2,), (2, 1, 3)], ids=str)
def test_any_number_of_leading_axes(leading):
    pack = Pack()
    mmcv = values(*leading, pack.logit_channels, 4, 5)
    flat = convert.logits_from_mmcv(mmcv.reshape(-1, *mmcv.shape[-3:]), **pack.reassembly)
    logits = convert.logits_from_mmcv(mmcv, **pack.reassembly)
    assert_same_bits(logits, np.reshape(flat, (*leading, *flat.shape[1:])))
    assert_same_bits(convert.logits_to_mmcv(logits, **pack.reassembly), mmcv)
    assert_same_bits(convert.kernels_from_mmcv(mmcv), channels_last(mmcv))
    assert_same_bits(convert.kernels_to_mmcv(convert.kernels_from_mmcv(mmcv)), mmcv)


def test_conversions_can_be_traced():
    pack = Pack()

    def converted(masks, logits, state_dict):
        weights = convert.kernels_from_mmcv(masks)
        logits = convert.logits_from_mmcv(logits, **pack.reassembly)
        return (
            (weights, logits, convert.params_from_mmcv(state_dict, **pack.reassembly)),
            convert.kernels_to_mmcv(weights),
            convert.logits_to_mmcv(logits, **pack.reassembly),
        )

    arguments = (
        values(2, pack.kernel_channels, 4, 4),
        values(2, pack.logit_channels, 2, 2),
        state_dict(pack),
    )
    jax.tree.map(assert_same_bits, jax.jit(converted)(*arguments), converted(*arguments))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: convert.kernels_from_mmcv(np.zeros((9, 4))),
            naming("masks", "groups * kernel_size**2, H', W'", "(9, 4)"),
        ),
        (
            lambda: convert.kernels_to_mmcv(np.zeros((9, 4))),
            naming("weights", "H', W', groups * kernel_size**2", "(9, 4)"),
        ),
        (
            lambda: convert.kernels_from_mmcv(np.zeros((1, 9, 4, 4), np.int32)),
            naming("masks", "float32", "int32"),
        ),
        (lambda: convert.kernels_from_mmcv([[[0.0]]]), naming("masks", "array", "list")),
        (
            lambda: convert.logits_from_mmcv(np.zeros((1, 4, 4, 36)), kernel_size=3),
            naming("logits", "36", "(1, 4, 4, 36)"),
        ),
        (
            lambda: convert.logits_to_mmcv(np.zeros((1, 36, 4, 4)), kernel_size=3),
            naming("logits", "36", "(1, 36, 4, 4)"),
        ),
        (
            lambda: convert.logits_to_mmcv(np.zeros((1, 4, 4, 36)), kernel_size=4),
            naming("kernel_size", "odd", 4),
        ),
        (lambda: convert.params_from_mmcv({}, up=0), naming("up", 1, 0)),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("name", "array", "expected"),
    [
        ("channel_compressor.weight", np.zeros((4, 6)), "rank 4"),
        ("channel_compressor.weight", np.zeros((4, 6, 3, 3)), (4, 6, 1, 1)),
        ("channel_compressor.bias", np.zeros(6), (4,)),
        ("content_encoder.weight", np.zeros((72, 5, 3, 3)), (72, 4, 3, 3)),
        ("content_encoder.weight", np.zeros((100, 4, 3, 3)), (72, 4, 3, 3)),
        ("content_encoder.weight", np.zeros((72, 4, 3, 5)), (72, 4, 3, 3)),
        ("content_encoder.bias", np.zeros(36), (72,)),
    ],
)
def test_bad_arrays_of_a_state_dict_are_named(name, array, expected):
    pack = Pack()
    mmcv = {**state_dict(pack), name: array}
    with pytest.raises(ValueError, match=naming("state_dict", name, expected, array.shape)):
        convert.params_from_mmcv(mmcv, **pack.reassembly)


def test_an_array_of_integers_is_named():
    mmcv = {**state_dict(Pack()), "content_encoder.bias": np.zeros(72, np.int64)}
    message = naming("state_dict", "content_encoder.bias", "float32", "int64")
    with pytest.raises(ValueError, match=message):
        convert.params_from_mmcv(mmcv, **Pack().reassembly)


def test_names_of_a_state_dict_that_are_missing_or_unknown_are_shown():
    pack = Pack()
    prefixed = {f"neck.{name}": array for name, array in state_dict(pack).items()}
    message = naming("state_dict", "content_encoder.bias", "got", "neck.content_encoder.bias")
    with pytest.raises(ValueError, match=message):
        convert.params_from_mmcv(prefixed, **pack.reassembly)


def test_layers_that_mmcv_does_not_have_are_refused():
    x = jnp.zeros((1, 4, 4, CHANNELS))
    for options, found in [
        ({"compressed_channels": None}, "content_encoder"),
        ({"batch_norm": True, "use_running_average": True}, "norm"),
    ]:
        linen = carafe_jax.linen.CARAFE(up=2, **options)
        params = jax.eval_shape(linen.init, jax.random.key(0), x)["params"]
        message = naming("kernel_predictor", "channel_compressor", "got", found)
        with pytest.raises(ValueError, match=message):
            convert.params_to_mmcv(params)


def test_bad_parameters_are_named():
    pack = Pack()
    params = convert.params_from_mmcv(state_dict(pack), **pack.reassembly)
    message = naming("params", "content_encoder", "kernel", (3, 3, 4, 36), (3, 3, 4, 72))
    with pytest.raises(ValueError, match=message):
        convert.params_to_mmcv(params, kernel_size=3, up=2, groups=1)
    with pytest.raises(ValueError, match=naming("params", "kernel_predictor", "content_encoder")):
        convert.params_to_mmcv(params["kernel_predictor"], **pack.reassembly)
