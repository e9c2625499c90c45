import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine.tables.cost import cost
from experiments.resamplers.dysample import DySample
from experiments.resamplers.interpolation import bilinear
from tests.compilation import jit
from tests.experiments.resamplers import loops
from tests.experiments.variables import random_variables
from tests.kernels.errors import naming

PUBLISHED = {False: 32_768, True: 65_536}  # parameters of four upsamplers of 256 channels

each_variant = pytest.mark.parametrize("dynamic_scope", [False, True])


def random_map(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@each_variant
def test_four_upsamplers_have_the_published_number_of_parameters(dynamic_scope):
    x = jax.ShapeDtypeStruct((1, 4, 4, 256), jnp.float32)
    assert 4 * cost(DySample(dynamic_scope), x).parameters == PUBLISHED[dynamic_scope]


@each_variant
def test_it_starts_near_bilinear(dynamic_scope):
    x = random_map(2, 5, 4, 8)
    y, _ = jit(DySample(dynamic_scope).init_with_output)(jax.random.key(0), x)
    np.testing.assert_allclose(y, bilinear(x), atol=0.02)


def test_an_offset_shifts_one_target_of_one_group():
    # The only channel with a weight is the column offset of target (1, 0) of the second group. A
    # quarter of 4 * 1/2 is half a pixel.
    x = np.ones((1, 4, 4, 4), np.float32) * np.arange(4, dtype=np.float32).reshape(1, 1, 4, 1)
    x[..., 0] = 1  # read by the convolution
    kernel = np.zeros((1, 1, 4, 16), np.float32)
    kernel[0, 0, 0, (2 * 2 + 1) * 2 + 1] = 4 * 0.5
    y = jit(DySample(groups=2).apply)({"params": {"offset": {"kernel": kernel}}}, x)
    # Columns of x count 0 to 3. Columns 2 and 3 of y lie at 3/4 and 5/4.
    np.testing.assert_allclose(y[0, 2, 2:4, 3], [0.75, 1.25])
    np.testing.assert_allclose(y[0, 3, 2:4, 3], [1.25, 1.25])  # row 1 of the cell: shifted
    np.testing.assert_allclose(y[0, 3, 2:4, 1], [0.75, 1.25])  # the first group is not


def slow_dysample(x, offset, scope=None, groups=4):
    """The definition, pixel by pixel."""
    x, offset = np.asarray(x, np.float64), np.asarray(offset, np.float64)[0, 0]
    batch, height, width, _ = x.shape
    positions = np.zeros((batch, 2 * height, 2 * width, groups, 2))
    for b, i, j in np.ndindex(batch, 2 * height, 2 * width):
        pixel = x[b, i // 2, j // 2]
        shift = pixel @ offset
        if scope is None:
            shift = shift / 4
        else:
            shift = shift / 2 / (1 + np.exp(-(pixel @ np.asarray(scope, np.float64)[0, 0])))
        target = (i % 2) * 2 + j % 2
        of_target = shift[target * groups * 2 : (target + 1) * groups * 2].reshape(groups, 2)
        positions[b, i, j] = np.array([(i + 0.5) / 2 - 0.5, (j + 0.5) / 2 - 0.5]) + of_target
    return loops.sample(x, positions)


@each_variant
def test_the_layer_and_its_gradients_equal_the_loop(dynamic_scope):
    x = random_map(2, 3, 4, 8)
    layer = DySample(dynamic_scope)
    params = random_variables(layer, x)["params"]
    kernels = [params["offset"]["kernel"]]
    if dynamic_scope:
        kernels.append(params["scope"]["kernel"])

    def fast(x, offset, scope=None):
        params = {"offset": {"kernel": offset}}
        if dynamic_scope:
            params["scope"] = {"kernel": scope}
        return layer.apply({"params": params}, x)

    np.testing.assert_allclose(jit(fast)(x, *kernels), slow_dysample(x, *kernels), atol=1e-4)
    loops.check_gradients(fast, slow_dysample, x, *kernels)


@pytest.mark.parametrize(("groups", "names"), [(4, ("6 channels", "4")), (2.0, ("integer", "2.0"))])
def test_groups_must_be_an_integer_that_divides_the_channels(groups, names):
    with pytest.raises(ValueError, match=naming("groups", *names)):
        jax.eval_shape(DySample(groups=groups).init, jax.random.key(0), random_map(1, 2, 2, 6))
