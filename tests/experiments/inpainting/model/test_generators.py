import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from experiments.engine.config import ConfigError
from experiments.engine.tables.cost import cost
from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.inpainting.model.generators import build_generator
from tests.experiments.variables import scaled_variables

pytestmark = pytest.mark.usefixtures("few_optimizations")

NETWORKS = {
    "global-local": GeneratorConfig(width=4),
    "global-local-carafe": GeneratorConfig(downsampler="carafe", upsampler="carafe", width=4),
    "no-skips": GeneratorConfig(width=4, skips=False, norm="none"),
    "partial": GeneratorConfig(convolution="partial", upsampler="nearest", width=4),
    "partial-carafe": GeneratorConfig(
        convolution="partial", downsampler="carafe", upsampler="carafe", width=4
    ),
    "unet": GeneratorConfig("unet", "partial", "strided", "nearest", width=2, levels=3),
    "unet-carafe": GeneratorConfig("unet", "partial", "carafe", "carafe", width=2, levels=3),
    "unet-plain": GeneratorConfig("unet", "plain", "max_pool", "bilinear", width=2, levels=3),
    "global-local-sapa": GeneratorConfig(upsampler="sapa", width=4),
    "global-local-dysample": GeneratorConfig(upsampler="dysample", width=4),
    "unet-sapa": GeneratorConfig("unet", "plain", "strided", "sapa", width=4, levels=3),
    "unet-dysample": GeneratorConfig(
        "unet", "plain", "strided", "dysample_plus", width=4, levels=3
    ),
}


def example(height=24, width=20):
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (2, height, width, 3)).astype(np.float32)
    mask = np.zeros((2, height, width, 1), np.float32)
    mask[0, 5:13, 4:15], mask[1, :9, 6:] = 1, 1
    return image, mask


def build(config, dtype="float32"):
    model = build_generator(config, jnp.dtype(dtype), None)
    return model, scaled_variables(model, *example())


FAST = ("global-local-carafe", "partial-carafe", "unet", "unet-plain")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in NETWORKS],
)
def test_networks_take_any_size_and_ignore_the_pixels_in_the_hole(name):
    model, variables = build(NETWORKS[name])  # initialised with another size
    apply = jax.jit(model.apply)
    image, mask = example(11, 13)
    found = apply(variables, image, mask)
    assert found.shape == image.shape
    assert found.dtype == jnp.float32
    assert (np.abs(found) <= 1).all()
    other = np.where(mask > 0, 5, image).astype(np.float32)
    np.testing.assert_array_equal(apply(variables, other, mask), found)


def convolution(size, inputs, outputs):
    return size * size * inputs * outputs


def normalized(outputs):
    return 2 * outputs  # scale and bias of BatchNorm; the convolution has no bias


def test_the_number_of_parameters_of_global_local_agrees_with_its_table():
    """Table 1 of reference 15: kernel and output channels, layer by layer."""
    table = [(5, 64), (3, 128), (3, 128), *[(3, 256)] * 9, (4, 128), (3, 128), (4, 64), (3, 32)]
    inputs, expected = 4, 0
    for size, outputs in table:
        bias = outputs if size == 4 else 0  # the deconvolution has its own bias
        expected += convolution(size, inputs, outputs) + bias + normalized(outputs)
        inputs = outputs
    expected += convolution(3, 32, 3) + 3
    image, mask = (jax.ShapeDtypeStruct((1, 256, 256, c), jnp.float32) for c in (3, 1))
    model = build_generator(GeneratorConfig(skips=False), jnp.float32, None)
    assert cost(model, image, mask).parameters == expected


def test_the_number_of_parameters_of_the_unet_agrees_with_its_table():
    """Section 4.1 and the appendix of reference 26, for 512x512: eight levels down and up."""
    encoder = [(7, 64), (5, 128), (5, 256), *[(3, 512)] * 5]
    inputs, expected = 3, 0
    for level, (size, outputs) in enumerate(encoder):
        bias = outputs if level == 0 else normalized(outputs)
        expected += convolution(size, inputs, outputs) + bias
        inputs = outputs
    skips = [512, 512, 512, 512, 256, 128, 64]
    for skip in skips:
        expected += convolution(3, inputs + skip, skip) + normalized(skip)
        inputs = skip
    expected += convolution(3, 64 + 3, 3) + 3
    image, mask = (jax.ShapeDtypeStruct((1, 256, 256, c), jnp.float32) for c in (3, 1))
    config = GeneratorConfig("unet", "partial", "strided", "nearest", levels=8)
    assert cost(build_generator(config, jnp.float32, None), image, mask).parameters == expected


def strides_of_convolutions(jaxpr):
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            found.append((equation.params["window_strides"], equation.invars[1].aval.shape[-1]))
        for inner in jaxprs_in_params(equation.params):
            found += strides_of_convolutions(inner)
    return found


@pytest.mark.parametrize("name", [name for name in NETWORKS if "carafe" in name])
def test_carafe_replaces_every_strided_convolution(name):
    model, variables = build(NETWORKS[name])
    jaxpr = jax.make_jaxpr(model.apply)(variables, *example()).jaxpr
    strided = [outputs for strides, outputs in strides_of_convolutions(jaxpr) if strides == (2, 2)]
    # The remaining ones are the content encoders of 5x5 reassembly kernels, one for each level.
    assert strided == [25] * NETWORKS[name].levels
    leaves = jax.tree.leaves_with_path(variables["params"])
    named = {jax.tree_util.keystr(path) for path, _ in leaves}
    assert sum("up_" in path and "content_encoder']['kernel" in path for path in named) == (
        NETWORKS[name].levels
    )


@pytest.mark.parametrize("name", [pytest.param("partial-carafe", marks=pytest.mark.slow), "unet"])
def test_the_frozen_encoder_keeps_its_averages(name):
    frozen = NETWORKS[name].__class__(**{**vars(NETWORKS[name]), "freeze_encoder_norm": True})
    model, variables = build(frozen)
    _, updated = jax.jit(lambda v, *a: model.apply(v, *a, train=True, mutable=["batch_stats"]))(
        variables, *example()
    )
    for path, before in jax.tree.leaves_with_path(variables["batch_stats"]):
        parameter = jax.tree_util.keystr(path)
        after = updated["batch_stats"]
        for key in path:
            after = after[key.key]
        decodes = any(part in parameter for part in ("up_", "decode_", "bottom_2", "bottom_3"))
        assert (np.asarray(before) == np.asarray(after)).all() != decodes, parameter


@pytest.mark.slow
def test_bfloat16_computes_in_half_and_returns_float32():
    model, _ = build(NETWORKS["partial-carafe"], "bfloat16")
    exact, variables = build(NETWORKS["partial-carafe"])
    found = jax.jit(model.apply)(variables, *example())
    assert found.dtype == jnp.float32
    expected = jax.jit(exact.apply)(variables, *example())
    assert 0 < np.abs(found - expected).max() < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"convolution": "partial"}, "upsampler.*'deconvolution'"),
        (
            {"convolution": "partial", "downsampler": "max_pool", "upsampler": "carafe"},
            "downsampler.*'max_pool'",
        ),
        ({"architecture": "unet"}, "upsampler.*'deconvolution'"),
        ({"architecture": "unet", "upsampler": "carafe", "skips": False}, "skips.* False"),
        ({"upsampler": "fade"}, "upsampler.*gate.*'fade'"),
        ({"upsampler": "cubic"}, "upsampler.*'sapa'.*'cubic'"),
        ({"upsampler": "sapa", "skips": False}, "upsampler.*guide.*'sapa'"),
        ({"norm": "none", "freeze_encoder_norm": True}, "norm.*'none'"),
        ({"width": 1}, "width.* 1"),
        ({"levels": 0}, "levels.* 0"),
    ],
)
def test_configs_that_define_no_network_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        GeneratorConfig(**options)
