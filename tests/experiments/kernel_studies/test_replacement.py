from fractions import Fraction

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from carafe_jax.linen import CARAFE
from experiments.inpainting.model.partial_convolution import Masked, MaskedCARAFE
from experiments.kernel_studies.replacement import KINDS, replaced_kernels
from tests.compilation import jit
from tests.experiments.source_maps.sown import sharpened
from tests.kernels import oracle

DOWN = {"down": 2, "kernel_size": 3, "groups": 2, "normalizer": "sigmoid"}
UP = {"up": 2, "kernel_size": 5}
SHARP = {"encoder_init": nn.initializers.normal(1.0)}


class Network(nn.Module):
    """A layer that downsamples, and a layer that upsamples twice."""

    @nn.compact
    def __call__(self, x):
        x = CARAFE(**DOWN, **SHARP, name="down")(x)
        up = CARAFE(**UP, **SHARP, name="up")
        return up(nn.relu(up(x)))


def means_of(shapes):
    rng = np.random.default_rng(1)
    return {name: np.float32(rng.random(shape)) for name, shape in shapes.items()}


def predicted(options, params, x):
    """The kernels that a layer predicts."""
    method = "reassembly_kernels"
    layer = CARAFE(**options)
    return np.asarray(jit(lambda x: layer.apply({"params": params}, x, method=method))(x))


def replaced(kernels, kind, means, up, box):
    """The kernels that replace predicted kernels, by loops over images and pixels."""
    result = np.zeros(kernels.shape)
    rows, columns = (size // up for size in kernels.shape[1:3])  # whole cells
    for image in range(len(kernels)):
        for row in range(kernels.shape[1]):
            for column in range(kernels.shape[2]):
                away = (
                    (row // up + rows // 2) % rows * up + row % up,
                    (column // up + columns // 2) % columns * up + column % up,
                )
                result[image, row, column] = {
                    "own": kernels[image, row, column],
                    "shuffled": kernels[image - 1, row, column],
                    "shifted": kernels[image, *away],
                    "mean": means[row % up, column % up],
                    "box": box,
                }[kind]
    return result


def expected(kind, params, means, x):
    """The output of the network, with sums in float64."""

    def layer(name, options, box, x):
        up, down = options.get("up", 1), options.get("down", 1)
        kernels = predicted(options, params[name], np.float32(x))
        kernels = replaced(kernels, kind, means[name], up, box)
        return oracle.reassemble(
            x, kernels, options["kernel_size"], up, down, options.get("groups", 1)
        )

    x = layer("down", DOWN, 1 / 2, x)
    x = layer("up", UP, 1 / 25, x)
    return layer("up", UP, 1 / 25, np.maximum(x, 0))


@pytest.fixture(scope="module")
def case():
    x = np.random.default_rng(0).normal(size=(3, 7, 6, 4)).astype(np.float32)
    params = jit(Network().init)(jax.random.key(0), x)["params"]
    return params, means_of({"down": (1, 1, 18), "up": (2, 2, 25)}), x


def apply(kind, params, means, x, model=None):
    """Compiles the network with replaced kernels, and with means as arguments."""
    model = model or Network()

    def run(params, means, *x):
        with replaced_kernels(kind, means if kind == "mean" else None):
            return model.apply({"params": params}, *x)

    return jit(run)(params, means, *x)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_has_the_replaced_kernels_in_every_call_of_every_layer(case, kind):
    params, means, x = case
    found = apply(kind, params, means, (x,))
    assert found.shape == (3, 16, 12, 4)
    np.testing.assert_allclose(found, expected(kind, params, means, x), rtol=1e-4, atol=1e-4)


class Resized(nn.Module):
    """A layer that is called with a size."""

    size: tuple[int, int]

    @nn.compact
    def __call__(self, x):
        return CARAFE(**UP, **SHARP, name="up")(x, size=self.size)


@pytest.mark.parametrize("size", [(13, 12), (10, 9)])
def test_a_call_with_a_size_has_the_replaced_kernels(case, size):
    params, means, x = case
    model = Resized(size)
    scales = [Fraction(outputs, n) for outputs, n in zip(size, x.shape[1:3], strict=True)]
    kernels = np.full((3, *size, 25), 1 / 25)
    found = apply("box", {"up": params["up"]}, means, (x,), model)
    expected = oracle.reassemble(x, kernels, 5, scales=scales)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    without = jit(lambda params, x: model.apply({"params": params}, x))({"up": params["up"]}, x)
    own = apply("shuffled", {"up": params["up"]}, means, (x,), model)
    assert own.shape == without.shape
    assert np.abs(own - without).max() > 0.1


def test_own_kernels_change_no_bit(case):
    params, means, x = case
    without = jit(lambda params, x: Network().apply({"params": params}, x))(params, x)
    np.testing.assert_array_equal(apply("own", params, means, (x,)), without)
    # Neither does a study that has ended.
    with replaced_kernels("box"):
        pass
    np.testing.assert_allclose(Network().apply({"params": params}, x), without, rtol=1e-4)


def test_the_kinds_differ(case):
    outputs = [np.asarray(apply(kind, *case[:2], (case[2],))) for kind in KINDS]
    for number, output in enumerate(outputs):
        for other in outputs[:number]:
            assert np.abs(output - other).max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_partial_convolutions_apply_the_replaced_kernels_to_map_and_mask(kind):
    rng = np.random.default_rng(2)
    features = rng.normal(size=(2, 5, 4, 3)).astype(np.float32)
    mask = np.float32(rng.random((2, 5, 4, 1)) > 0.4)
    model = MaskedCARAFE(up=2)
    params = jit(model.init)(jax.random.key(0), Masked(features, mask))["params"]
    params = sharpened(params)
    means = means_of({"carafe": (2, 2, 25)})
    found = apply(kind, params, means, (Masked(features, mask),), model)

    valid = features * mask
    kernels = replaced(
        predicted({"up": 2}, params["carafe"], valid), kind, means["carafe"], 2, 1 / 25
    )
    sums, seen, inside = (
        oracle.reassemble(each, kernels, 5, up=2) for each in (valid, mask, np.ones_like(mask))
    )
    known = seen > 1e-6 * inside
    seen, inside = np.where(known, seen, 1), np.where(known, inside, 1)
    expected = np.where(known, sums * inside / seen, 0)
    np.testing.assert_allclose(found.features, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.mask, np.where(known, seen / inside, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["shuffled", "shifted", "mean", "box"])
def test_batch_norm_dtype_and_rematerialisation_are_as_in_the_layer(kind):
    class Rematerialised(nn.Module):
        @nn.compact
        def __call__(self, x):
            options = {"batch_norm": True, "use_running_average": True, "dtype": jnp.bfloat16}
            return nn.remat(CARAFE)(up=2, name="layer", **options)(x)

    x = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype(np.float32)
    variables = jit(Rematerialised().init)(jax.random.key(0), x)
    means = means_of({"layer": (2, 2, 25)})

    def run(variables, means, x):
        with replaced_kernels(kind, means if kind == "mean" else None):
            return Rematerialised().apply(variables, x)

    found = jit(run)(variables, means, x)
    assert found.dtype == jnp.bfloat16
    if kind in ("mean", "box"):
        box = np.full((2, 8, 8, 25), 1 / 25)
        kernels = replaced(box, kind, means["layer"], 2, 1 / 25)
        np.testing.assert_allclose(
            np.float32(found), oracle.reassemble(x, kernels, 5, up=2), rtol=0.03, atol=0.1
        )


@pytest.mark.parametrize("kind", ["mean", "shifted"])
def test_a_fractional_scale_keeps_the_phases_of_kernels(kind):
    options = {"up": 3, "down": 2, "kernel_size": 3}
    layer = CARAFE(**options, **SHARP)
    x = np.random.default_rng(0).normal(size=(1, 5, 7, 2)).astype(np.float32)
    params = jit(layer.init)(jax.random.key(0), x)["params"]
    means = means_of({"": (3, 3, 9)})
    kernels = predicted(options, params, x)
    assert kernels.shape == (1, 8, 11, 9)
    kernels = replaced(kernels, kind, means[""], 3, None)
    found = apply(kind, params, means, (x,), layer)
    np.testing.assert_allclose(
        found, oracle.reassemble(x, kernels, 3, up=3, down=2), rtol=1e-4, atol=1e-5
    )


def test_bad_arguments_are_refused_by_name(case):
    params, means, x = case
    model = Network()
    for kind, given, message in [
        ("other", None, "kind .*'own'.*'other'"),
        ("mean", None, "means .*None"),
        ("box", means, "means .*None otherwise, got kernels"),
    ]:
        with pytest.raises(ValueError, match=message), replaced_kernels(kind, given):
            pass
    with replaced_kernels("shuffled"):
        with pytest.raises(ValueError, match=r"two images.*\(1, 4, 3, 18\)"):
            model.apply({"params": params}, x[:1])
        with pytest.raises(ValueError, match=r"two images.*\(4, 3, 18\)"):
            model.apply({"params": params}, x[0])
    lacking = pytest.raises(ValueError, match=r"layer 'up', got \['down'\]")
    with lacking, replaced_kernels("mean", {"down": means["down"]}):
        model.apply({"params": params}, x)
    wrong = pytest.raises(ValueError, match=r"'up' .*\(2, 2, 25\), got \(1, 1, 18\)")
    with wrong, replaced_kernels("mean", {**means, "up": means["down"]}):
        model.apply({"params": params}, x)
