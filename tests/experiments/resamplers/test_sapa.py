import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine.tables.cost import cost
from experiments.resamplers.sapa import SAPA
from tests.compilation import jit
from tests.experiments.resamplers import loops
from tests.experiments.resamplers.test_fade import SEGFORMER, random_maps, softmax
from tests.experiments.variables import scaled_variables
from tests.kernels import oracle
from tests.slow import slow


def test_six_upsamplers_of_segformer_cost_what_is_published():
    flops, parameters = 0, 0
    for side in SEGFORMER:
        maps = [jax.ShapeDtypeStruct((1, n, n, 256), jnp.float32) for n in (side, 2 * side)]
        each = cost(SAPA(), *maps)
        flops, parameters = flops + each.flops, parameters + each.parameters
    assert parameters == 6 * (2 * (256 * 32 + 32) + 4 * 256)
    assert parameters / 1e6 == pytest.approx(0.1, abs=0.05)
    # The published number leaves LayerNorm out, here 4 operations for each value of both maps.
    values = sum(5 * side * side for side in SEGFORMER) * 256
    assert (flops - 4 * values) / 2e9 == pytest.approx(1.02, abs=0.005)


def layer_norm(x, params):
    normal = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    return normal * params["scale"] + params["bias"]


def slow_sapa(params):
    """The definition, tap by tap."""

    def run(x, guide):
        x, guide = np.float64(x), np.float64(guide)
        queries = layer_norm(guide, params["guide_norm"]) @ params["query"]["kernel"]
        queries = queries + params["query"]["bias"]
        keys = layer_norm(x, params["norm"]) @ params["key"]["kernel"] + params["key"]["bias"]
        products = np.zeros((*guide.shape[:3], 25))
        kept = {}
        for read in oracle.reads(x.shape[1:3], 5, 2, 1):
            (row, column), source, tap = read
            if row < guide.shape[1] and column < guide.shape[2]:
                products[:, row, column, tap] = (queries[:, row, column] * keys[:, *source]).sum(-1)
                kept[row, column, tap] = source
        kernels = softmax(products)
        y = np.zeros((*guide.shape[:3], x.shape[3]))
        for (row, column, tap), source in kept.items():
            y[:, row, column] += kernels[:, row, column, tap, None] * x[:, *source]
        return y

    return run


@pytest.mark.parametrize("out_size", [(5, 8), slow((6, 8))])
def test_the_layer_and_its_gradients_equal_the_loop(out_size):
    maps = random_maps(3, 4, 6, out_size)
    layer = SAPA()
    variables = scaled_variables(layer, *maps)
    slow = slow_sapa(jax.tree.map(np.float64, variables["params"]))
    np.testing.assert_allclose(jit(layer.apply)(variables, *maps), slow(*maps), atol=1e-4)
    loops.check_gradients(lambda *maps: layer.apply(variables, *maps), slow, *maps)


def test_an_equal_pixel_gets_the_larger_weight():
    # Two channels, which LayerNorm maps to (1, -1) and (-1, 1). Queries and keys are 3 times the
    # first: products are 9 for an equal pixel, -9 for another, and 0 outside the map.
    x = np.array([[2, 0], [0, 4]], np.float32).reshape(1, 1, 2, 2)
    guide = np.array([[5, 3], [5, 3], [3, 5], [3, 5]], np.float32).reshape(1, 1, 4, 2)
    kernel = np.zeros((2, 32), np.float32)
    kernel[0, 0] = 3
    norm = {"scale": np.ones(2, np.float32), "bias": np.zeros(2, np.float32)}
    linear = {"kernel": kernel, "bias": np.zeros(32, np.float32)}
    params = {"norm": norm, "guide_norm": norm, "query": linear, "key": linear}
    y = jit(SAPA().apply)({"params": params}, x, guide)
    weights = np.exp([9, -9, 0]) / (np.exp(9) + np.exp(-9) + 23)
    np.testing.assert_allclose(y[0, 0, 0], [2 * weights[0], 4 * weights[1]], rtol=1e-3)
    np.testing.assert_allclose(y[0, 0, 3], [2 * weights[1], 4 * weights[0]], rtol=1e-3)


@pytest.mark.parametrize("shape", [(1, 7, 8, 6), (1, 5, 10, 6), (2, 5, 8, 6)])
def test_a_guide_of_another_size_is_refused(shape):
    x = np.zeros((1, 3, 4, 6), np.float32)
    with pytest.raises(ValueError, match=r"guide.*\(1, 3, 4, 6\)"):
        jax.eval_shape(SAPA().init, jax.random.key(0), x, np.zeros(shape, np.float32))


def test_a_guide_may_have_other_channels():
    x, guide = np.zeros((1, 3, 4, 6), np.float32), np.zeros((1, 5, 8, 2), np.float32)
    y, _ = jax.eval_shape(SAPA().init_with_output, jax.random.key(0), x, guide)
    assert y.shape == (1, 5, 8, 6)
