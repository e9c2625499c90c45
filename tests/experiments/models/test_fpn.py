from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.engine.config import ConfigError
from experiments.engine.tables.cost import cost
from experiments.models.fpn import FPN
from experiments.models.fpn_config import FPNConfig, Kind
from experiments.resamplers.carafe_config import CarafeConfig
from experiments.resamplers.methods import Upsampler
from tests.compilation import jit
from tests.experiments.resamplers import loops
from tests.experiments.variables import random_variables

KEY = jax.random.key(0, impl="rbg")
KINDS = get_args(Kind)
# P3 of 13 pixels is upsampled to the 25 of P2; sides halve rounding up.
SIZES = [(25, 6), (13, 3), (7, 2), (4, 1)]
RESNET_50 = tuple(
    jax.ShapeDtypeStruct((1, 800 // s, 1344 // s, 64 * s), jnp.float32) for s in (4, 8, 16, 32)
)


def random_maps(sizes=SIZES, dtype=np.float32):
    rng = np.random.default_rng(0)
    return tuple(
        jnp.asarray(rng.normal(size=(2, *size, 3 + index)), dtype)
        for index, size in enumerate(sizes)
    )


def pyramid(params, maps, kind):
    """Computes the network with nearest interpolation by loops."""

    def convolve(name, x, stride=1):
        y = loops.convolve(x, params[name]["kernel"]) + params[name]["bias"]
        return y[:, ::stride, ::stride]

    lowest = 6 - len(maps)
    levels = {i: convolve(f"lateral_{i}", x) for i, x in enumerate(maps, lowest)}
    if kind == "fpn_carafe":
        levels[6] = convolve("lateral_6", maps[-1], stride=2)
    for i in range(max(levels), lowest, -1):
        height, width = levels[i - 1].shape[1:3]
        # Interpolation to an odd side as in PyTorch: the source of target t is t * h / H.
        rows = np.arange(height) * levels[i].shape[1] // height
        columns = np.arange(width) * levels[i].shape[2] // width
        levels[i - 1] = levels[i - 1] + levels[i][:, rows][:, :, columns]
    outputs = [convolve(f"output_{i}", levels[i]) for i in sorted(levels)]
    if kind == "fpn":
        outputs.append(outputs[-1][:, ::2, ::2])
    return outputs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", [4, 2])
def test_with_nearest_it_equals_the_loops(kind, levels):
    maps = random_maps()[-levels:]
    layer = FPN(FPNConfig(kind, channels=4))
    variables = random_variables(layer, maps)
    found = jit(layer.apply)(variables, maps)
    expected = pyramid(variables["params"], maps, kind)
    assert len(found) == levels + 1
    for level, by_loops in zip(found, expected, strict=True):
        np.testing.assert_allclose(level, by_loops, rtol=1e-5, atol=1e-3)


def test_gradients_equal_finite_differences():
    maps = random_maps([(3, 4), (2, 2)])
    layer = FPN(FPNConfig("fpn_carafe", channels=2))
    variables = random_variables(layer, maps)

    def flat(levels, xp):
        return xp.concatenate([level.ravel() for level in levels])

    def fast(*maps):
        return flat(layer.apply(variables, maps), jnp)

    def slow(*maps):
        return flat(pyramid(variables["params"], maps, "fpn_carafe"), np)

    loops.check_gradients(fast, slow, *maps)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5)
@given(height=st.integers(1, 70), width=st.integers(1, 70), levels=st.integers(2, 4))
def test_shapes_for_any_image_size(kind, height, width, levels):
    sizes = [(-(-height // 2**i), -(-width // 2**i)) for i in range(levels + 1)]
    maps = [jax.ShapeDtypeStruct((2, *size, 3), jnp.float32) for size in sizes[:-1]]
    layer = FPN(FPNConfig(kind, channels=4))
    found, _ = jax.eval_shape(layer.init_with_output, KEY, tuple(maps))
    assert [x.shape for x in found] == [(2, *size, 4) for size in sizes]


@pytest.mark.parametrize("upsampler", get_args(Upsampler))
def test_every_upsampler_handles_odd_sides(upsampler):
    layer = FPN(FPNConfig("fpn_carafe", upsampler, channels=4))
    found, _ = jax.eval_shape(layer.init_with_output, KEY, random_maps())
    assert [x.shape for x in found] == [(2, *size, 4) for size in [*SIZES, (2, 1)]]


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_extra_level(kind):
    maps = random_maps()
    layer = FPN(FPNConfig(kind, channels=4, extra_level=False))
    variables = random_variables(layer, maps)
    found = jax.eval_shape(layer.apply, variables, maps)
    assert [x.shape for x in found] == [(2, *size, 4) for size in SIZES]
    plain = random_variables(FPN(FPNConfig(channels=4)), maps)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, plain)


def test_each_level_has_its_own_upsampler():
    config = FPNConfig("fpn_carafe", "carafe", 4, CarafeConfig(8, 1, 3))
    params = jax.eval_shape(FPN(config).init, KEY, random_maps())["params"]
    names = {f"{part}_{i}" for part in ("lateral", "output") for i in range(2, 7)}
    assert set(params) == names | {f"upsample_{i}" for i in range(3, 7)}
    for i in range(3, 7):
        predictor = params[f"upsample_{i}"]["kernel_predictor"]
        assert predictor["channel_compressor"]["kernel"].shape == (1, 1, 4, 8)
        assert predictor["content_encoder"]["kernel"].shape == (1, 1, 8, 4 * 9)


def parameters(kind, upsampler):
    return cost(FPN(FPNConfig(kind, upsampler)), RESNET_50).parameters


def test_parameters_of_the_standard_network():
    # torchvision's Faster R-CNN ResNet-50 FPN has 41,755,286 parameters; this is the rest without
    # the convolutions of the backbone, the RPN, and the box head for 91 classes.
    rpn = 256 * 9 * 256 + 256 + 257 * 3 + 257 * 12
    box_head = (256 * 49 + 1) * 1024 + 1025 * 1024 + 1025 * 91 * 5
    assert parameters("fpn", "nearest") == 41_755_286 - 23_454_912 - rpn - box_head == 3_344_384
    assert parameters("fpn", "carafe") == 3_344_384 + 3 * (257 * 64 + 100 * 577)


def test_parameters_of_mmdet_network():
    # A 3x3 lateral on C5, an output, and one more upsampler: four in all.
    more = (9 * 2048 + 1) * 256 + (9 * 256 + 1) * 256
    assert parameters("fpn_carafe", "nearest") == 3_344_384 + more == 3_344_384 + 5_308_928
    carafe = 4 * (257 * 64 + 100 * 577)
    assert parameters("fpn_carafe", "carafe") == 3_344_384 + more + carafe


@pytest.mark.parametrize("upsampler", ["nearest", "deconvolution"])
def test_initial_values(upsampler):
    maps = random_maps(SIZES[2:])
    layer = FPN(FPNConfig("fpn_carafe", upsampler, channels=16))
    for path, leaf in jax.tree.leaves_with_path(jit(layer.lazy_init)(KEY, maps)):
        if path[-1].key == "bias":
            assert (leaf == 0).all()
        else:
            taps, channels, features = leaf.shape[0] ** 2, *leaf.shape[2:]
            bound = np.sqrt(6 / (taps * (channels + features)))
            assert 0.8 * bound < np.abs(leaf).max() <= bound


@pytest.mark.parametrize(
    ("kind", "upsampler"),
    [("fpn", "nearest"), pytest.param("fpn_carafe", "carafe", marks=pytest.mark.slow)],
)
def test_bfloat16_compiles_once_with_finite_gradients(kind, upsampler):
    maps = random_maps(SIZES[2:], jnp.bfloat16)
    layer = FPN(FPNConfig(kind, upsampler, channels=4), dtype=jnp.bfloat16)
    variables = jit(layer.lazy_init)(KEY, maps)

    traces = []

    def loss(variables, maps):
        traces.append(kind)
        levels = layer.apply(variables, maps)
        assert all(x.dtype == jnp.bfloat16 for x in levels)
        return sum(jnp.square(x.astype(jnp.float32) - 1).sum() for x in levels), levels

    gradient = jit(jax.grad(loss, (0, 1), has_aux=True))
    for _ in range(2):
        (parameter_gradients, map_gradients), levels = gradient(variables, maps)
    assert len(traces) == 1
    assert all(x.dtype == jnp.bfloat16 for x in map_gradients)
    for leaf in jax.tree.leaves(parameter_gradients):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0
    in_float32 = tuple(x.astype("float32") for x in maps)
    exact = jit(FPN(layer.config).apply)(variables, in_float32)
    for rounded, level in zip(levels, exact, strict=True):
        np.testing.assert_allclose(rounded.astype("float32"), level, rtol=0.05, atol=0.1)


@pytest.mark.parametrize(
    "sizes", [[(8, 8)], [(8, 8), (8, 8)], [(9, 8), (4, 4)], [(8, 8), (4, 4), (2, 3)]]
)
def test_maps_that_are_not_halves_are_refused(sizes):
    with pytest.raises(ValueError, match=r"maps.*half"):
        FPN(FPNConfig(channels=2)).init(KEY, random_maps(sizes))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "pafpn"}, "kind.*fpn_carafe.*'pafpn'"),
        ({"upsampler": "bicubic"}, "upsampler.*carafe.*'bicubic'"),
        ({"channels": 0}, "channels.* 0$"),
    ],
)
def test_fields_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        FPNConfig(**options)
