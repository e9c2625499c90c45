import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carafe_jax.linen import CARAFE
from experiments.inpainting.model.partial_convolution import Masked, MaskedCARAFE, PartialConv

pytestmark = pytest.mark.usefixtures("few_optimizations")


def draw(seed, height, width, channels, soft=False):
    """A map in [-1, 1] with a mask of zeros and ones, or a soft one of zeros and values up to 1."""
    rng = np.random.default_rng(seed)
    features = rng.uniform(-1, 1, (2, height, width, channels)).astype(np.float32)
    mask = (rng.random((2, height, width, 1)) < 0.4).astype(np.float32)
    if soft:
        mask *= rng.random(mask.shape, dtype=np.float32)
    return Masked(jnp.asarray(features), jnp.asarray(mask))


@functools.cache
def shapes(module, *channels):
    """Shapes of the parameters, which do not depend on the size of the maps."""
    maps = [draw(0, 5, 4, each) for each in channels]
    return jax.eval_shape(module.init, jax.random.key(0), *maps)


def trained(module, *maps):
    """Parameters like after training: kernels are far from box filters, biases are not zero."""
    found = shapes(module, *(each.features.shape[-1] for each in maps))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(scale=0.5, size=x.shape), x.dtype), found)


# Few sizes, to limit compilation.
SIZES = st.sampled_from([(1, 1), (1, 6), (5, 4)])


def window(array, row, column, size, step, b):
    """The values in a window inside the map, with their rows and columns in the kernel."""
    reach = size // 2
    for n in range(size):
        for m in range(size):
            i, j = row + (n - reach) * step, column + (m - reach) * step
            if 0 <= i < array.shape[1] and 0 <= j < array.shape[2]:
                yield n, m, array[b, i, j].astype(np.float64)


@pytest.mark.parametrize(
    ("strides", "dilation", "soft"), [(1, 1, False), (2, 1, True), (1, 2, True)]
)
def test_partial_convolution_against_the_formula(strides, dilation, soft):
    maps = [draw(0, 7, 6, 2, soft), draw(1, 7, 6, 3, soft)]
    layer = PartialConv(4, 3, strides=strides, dilation=dilation)
    params = trained(layer, *maps)
    found = jax.jit(layer.apply)(params, *maps)

    kernel = np.asarray(params["params"]["conv"]["kernel"], np.float64)
    bias = np.asarray(params["params"]["bias"], np.float64)
    x = np.concatenate([m.features for m in maps], axis=-1)
    each = np.concatenate([np.repeat(m.mask, m.features.shape[-1], -1) for m in maps], axis=-1)
    pixels = np.concatenate([m.mask for m in maps], axis=-1)
    rows, columns = -(-7 // strides), -(-6 // strides)
    expected, mask = np.zeros((2, rows, columns, 4)), np.zeros((2, rows, columns, 1))
    for b, i, j in np.ndindex(2, rows, columns):
        at = (i * strides, j * strides, 3, dilation, b)
        taps = [values for _, _, values in window(x * each, *at)]
        where = [(n, m) for n, m, _ in window(x, *at)]
        valid = sum(values.sum() for _, _, values in window(each, *at))
        if valid > 0:
            total = sum(v @ kernel[n, m] for (n, m), v in zip(where, taps, strict=True))
            expected[b, i, j] = total * (9 * 5) / valid + bias
            mask[b, i, j] = min(1, sum(v.sum() for _, _, v in window(pixels, *at)))
    np.testing.assert_allclose(found.features, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.mask, mask, rtol=1e-6)


def test_inside_a_valid_map_partial_convolution_equals_convolution():
    x = draw(0, 8, 9, 3)
    whole = Masked(x.features, jnp.ones_like(x.mask))
    layer = PartialConv(4, 3)
    params = trained(layer, whole)
    convolved = jax.lax.conv_general_dilated(
        x.features,
        params["params"]["conv"]["kernel"],
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    expected = np.asarray(convolved) + np.asarray(params["params"]["bias"])
    found = jax.jit(layer.apply)(params, whole).features[:, 1:-1, 1:-1]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("up", "down", "soft"), [(2, 1, True), (1, 2, True), (1, 2, False)])
def test_masked_carafe_against_the_formula(up, down, soft):
    x = draw(2, 6, 7, 3, soft)
    layer = MaskedCARAFE(up, down)
    params = trained(layer, x)
    found = jax.jit(layer.apply)(params, x)

    valid = np.asarray(x.features * x.mask)
    plain = {"params": params["params"]["carafe"]}
    predict = functools.partial(CARAFE(up=up, down=down).apply, method="reassembly_kernels")
    kernels = np.asarray(jax.jit(predict)(plain, valid), np.float64)
    batch, rows, columns, _ = kernels.shape
    expected, mask = np.zeros((batch, rows, columns, 3)), np.zeros((batch, rows, columns, 1))
    for b, i, j in np.ndindex(batch, rows, columns):
        kernel = kernels[b, i, j].reshape(5, 5)
        at = (i * down // up, j * down // up, 5, 1, b)
        features = [v for _, _, v in window(np.asarray(x.features), *at)]
        taps = [
            (kernel[n, m], value[0], kernel[n, m] * value[0])
            for n, m, value in window(np.asarray(x.mask), *at)
        ]
        inside, valid_sum = sum(w for w, _, _ in taps), sum(product for _, _, product in taps)
        if valid_sum > 1e-6 * inside:
            total = sum(product * v for (_, _, product), v in zip(taps, features, strict=True))
            expected[b, i, j] = total * inside / valid_sum
            mask[b, i, j] = valid_sum / inside
    np.testing.assert_allclose(found.features, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.mask, mask, rtol=1e-4, atol=1e-6)


LAYERS = {
    "convolution": PartialConv(4, 3),
    "strided": PartialConv(4, 5, strides=2),
    "down": MaskedCARAFE(down=2),
    "up": MaskedCARAFE(up=2),
}


def applied(layer, params, x):
    """The output of a layer, and the gradients of the sum of its absolute values."""

    def total(params, x):
        found = layer.apply(params, x)
        return sum(jnp.abs(array).sum() for array in found), found

    gradients, found = jax.grad(total, argnums=(0, 1), has_aux=True)(params, x)
    return found, *gradients


APPLY = {name: jax.jit(functools.partial(applied, layer)) for name, layer in LAYERS.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
@given(size=SIZES, soft=st.booleans(), seed=st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
def test_features_in_the_hole_do_not_leak(name, size, soft, seed):
    layer, x = LAYERS[name], draw(seed, *size, 3, soft)
    params = trained(layer, x)
    other = Masked(jnp.where(x.mask > 0, x.features, 1e3), x.mask)
    before, _, gradients = APPLY[name](params, x)
    after, _, _ = APPLY[name](params, other)
    jax.tree.map(np.testing.assert_array_equal, before, after)
    gradient = gradients.features
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(jnp.where(x.mask > 0, 0, gradient), 0)


@functools.cache
def masked_and_plain(up, down):
    masked, plain = MaskedCARAFE(up, down), CARAFE(up=up, down=down)
    return masked, jax.jit(
        lambda params, whole: (
            masked.apply(params, whole),
            plain.apply({"params": params["params"]["carafe"]}, whole.features),
        )
    )


@pytest.mark.parametrize(
    ("up", "down"), [(2, 1), (1, 2), pytest.param(3, 2, marks=pytest.mark.slow)]
)
@given(size=SIZES, seed=st.integers(0, 2**16))
@settings(max_examples=8, deadline=None)
def test_on_a_valid_map_masked_carafe_equals_carafe_also_at_borders(up, down, size, seed):
    x = draw(seed, *size, 3)
    whole = Masked(x.features, jnp.ones_like(x.mask))
    layer, apply = masked_and_plain(up, down)
    found, plain = apply(trained(layer, whole), whole)
    np.testing.assert_allclose(found.features, plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.mask, 1)


@pytest.mark.parametrize("name", LAYERS)
def test_an_empty_window_results_in_zeros_and_stays_a_hole(name):
    layer, x = LAYERS[name], draw(0, 16, 16, 3)
    half = Masked(x.features, x.mask.at[:, :10].set(0).at[:, 10:].set(1))
    found = jax.jit(layer.apply)(trained(layer, half), half)
    scale = found.mask.shape[1] / 16
    empty = int(7 * scale)  # a window extends at most two rows, or the width of a kernel, further
    np.testing.assert_array_equal(found.features[:, :empty], 0)
    np.testing.assert_array_equal(found.mask[:, :empty], 0)
    assert (found.mask[:, -2:] == 1).all()
    assert (found.features[:, -2:] != 0).all()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("valid", [1e-38, 1e-30, 1e-7, 1e-5])
def test_tiny_masks_have_finite_results_and_gradients(name, valid):
    layer, x = LAYERS[name], draw(0, 5, 4, 3)
    faint = Masked(x.features, x.mask * valid)
    results = APPLY[name](trained(layer, faint), faint)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results))


@pytest.mark.parametrize("outside", [10.0, 30.0, 45.0, 70.0, 100.0])
def test_a_kernel_with_its_weight_outside_the_map_has_finite_results(outside):
    """At a border, nearly all of the weight may be on taps outside the map."""
    x = draw(0, 1, 1, 3)
    whole = Masked(x.features, jnp.ones_like(x.mask))
    params = trained(LAYERS["down"], whole)
    predictor = params["params"]["carafe"]["kernel_predictor"]["content_encoder"]
    predictor["kernel"] = predictor["kernel"] / 100
    predictor["bias"] = jnp.full(25, outside).at[12].set(0.0)
    found, *gradients = APPLY["down"](params, whole)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    _, apply = masked_and_plain(1, 2)
    _, plain = apply(params, whole)
    np.testing.assert_allclose(found.features, plain, rtol=1e-5, atol=1e-12)


def test_the_mask_is_the_share_of_the_kernel_on_valid_pixels():
    """The more weight a kernel has outside the hole, the larger is the new mask."""
    x = Masked(jnp.ones((1, 5, 5, 1)), jnp.ones((1, 5, 5, 1)).at[:, :, 3:].set(0))
    layer = MaskedCARAFE(down=5)
    params = trained(layer, x)
    apply = jax.jit(layer.apply)
    bias = jnp.zeros((5, 5)).at[2:, 2:].set(2.0)  # the part of the corner's window inside the map
    predictor = params["params"]["carafe"]["kernel_predictor"]["content_encoder"]
    predictor["kernel"] = jnp.zeros_like(predictor["kernel"])
    shares = {}
    for name, logits in (
        ("even", bias),
        ("away", bias.at[2:, 2].add(4.0)),
        ("towards", bias.at[2:, 4].add(4.0)),
    ):
        predictor["bias"] = logits.reshape(-1)
        narrow = Masked(x.features[:, :3, :3], x.mask[:, :3, 1:4])  # column 2 is not valid
        shares[name] = apply(params, narrow).mask.item()
    assert shares["even"] == pytest.approx(2 / 3)
    assert shares["towards"] < 0.2 < 2 / 3 < 0.95 < shares["away"]
