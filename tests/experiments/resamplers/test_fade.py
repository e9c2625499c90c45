import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine.tables.cost import cost
from experiments.resamplers.fade import FADE
from tests.compilation import jit
from tests.experiments.resamplers import loops
from tests.experiments.variables import scaled_variables
from tests.kernels import oracle
from tests.slow import slow

each_variant = pytest.mark.parametrize("lite", [False, slow(True)])
# Sides of the maps that the six upsamplers of SegFormer-B1 double, for images of 512x512 pixels.
SEGFORMER = (16, 32, 64, 32, 64, 64)
# Parameters, and multiply-adds in billions, as FADE's README gives them.
PUBLISHED = {False: (285_084, 2.65), True: (79_992, 0.89)}


def random_maps(height, width, channels, out_size, batch=2):
    rng = np.random.default_rng(0)
    shapes = (batch, height, width, channels), (batch, *out_size, channels)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@each_variant
def test_six_upsamplers_of_segformer_cost_what_is_published(lite):
    parameters, multiply_adds = PUBLISHED[lite]
    flops, found = 0, 0
    for side in SEGFORMER:
        maps = [jax.ShapeDtypeStruct((1, n, n, 256), jnp.float32) for n in (side, 2 * side)]
        each = cost(FADE(lite), *maps)
        flops, found = flops + each.flops, found + each.parameters
    assert found == parameters  # +0.29 M and +80 K
    # Half of the operations; the sums of the gate are not multiply-adds.
    assert flops / 2e9 == pytest.approx(multiply_adds, abs=0.02)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def depthwise(x, kernel):
    channels = x.shape[-1]
    full = np.zeros((3, 3, channels, channels))
    full[:, :, range(channels), range(channels)] = kernel[:, :, 0]
    return loops.convolve(x, full)


def slow_fade(params, lite):
    """The definition, with the loops of other tests."""
    encoder = params["content_encoder"]
    convolve = depthwise if lite else loops.convolve

    def encoded(x, name):
        compressed = x @ np.float64(params[name]["kernel"][0, 0]) + params[name].get("bias", 0)
        return convolve(compressed, encoder["kernel"]) + encoder["bias"]

    def run(x, guide):
        x, guide = np.float64(x), np.float64(guide)
        rows, columns = guide.shape[1:3]
        doubled = loops.nearest(encoded(x, "channel_compressor"))[:, :rows, :columns]
        kernels = softmax(encoded(guide, "guide_compressor") + doubled)
        whole = np.zeros((*loops.nearest(x).shape[:3], 25))
        whole[:, :rows, :columns] = kernels
        y = oracle.reassemble(x, whole, 5, up=2)[:, :rows, :columns]
        logit = x @ np.float64(params["gate"]["kernel"][0, 0]) + params["gate"]["bias"]
        gate = loops.nearest(1 / (1 + np.exp(-logit)))[:, :rows, :columns]
        return gate * guide + (1 - gate) * y

    return run


@each_variant
@pytest.mark.parametrize("out_size", [(5, 8), slow((6, 8))])
def test_the_layer_and_its_gradients_equal_the_loop(lite, out_size):
    maps = random_maps(3, 4, 6, out_size)
    layer = FADE(lite)
    variables = scaled_variables(layer, *maps)
    slow = slow_fade(jax.tree.map(np.asarray, variables["params"]), lite)
    np.testing.assert_allclose(jit(layer.apply)(variables, *maps), slow(*maps), atol=1e-4)
    loops.check_gradients(lambda *maps: layer.apply(variables, *maps), slow, *maps)


def test_a_gate_of_one_half_and_equal_kernels_average_guide_and_box():
    x, guide = np.full((1, 5, 5, 2), 4, np.float32), np.full((1, 10, 10, 2), 10, np.float32)
    shapes = jax.eval_shape(FADE().init, jax.random.key(0), x, guide)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    y = jit(FADE().apply)(zeros, x, guide)
    np.testing.assert_allclose(y[0, 4:6, 4:6], 7, rtol=1e-6)  # (10 + 4) / 2
    # At the corner 9 of the 25 taps lie in the map.
    np.testing.assert_allclose(y[0, 0, 0], (10 + 4 * 9 / 25) / 2, rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 7, 8, 6), (1, 5, 10, 6), (2, 5, 8, 6), (1, 5, 8, 5)])
def test_a_guide_of_another_shape_is_refused(shape):
    x = np.zeros((1, 3, 4, 6), np.float32)
    with pytest.raises(ValueError, match=r"guide.* 6\] .*\(1, 3, 4, 6\)"):
        jax.eval_shape(FADE().init, jax.random.key(0), x, np.zeros(shape, np.float32))
