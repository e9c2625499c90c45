import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import carafe_jax
from tests.carafe_jax.twins import CHANNELS, SMALL, X, twins
from tests.kernels.errors import naming


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("compressed_channels", 0),
        ("encoder_size", 2),
        ("encoder_dilation", 0),
        ("groups", 4),
        ("kernel_size", 4),
        ("up", 0),
        ("normalizer", "relu"),
    ],
)
def test_bad_options_are_named(name, value):
    options, message = {name: value}, naming(name, repr(value))
    with pytest.raises(ValueError, match=message):
        carafe_jax.linen.CARAFE(**options).init(jax.random.key(0), X)
    with pytest.raises(ValueError, match=message):
        carafe_jax.nnx.CARAFE(CHANNELS, **options, rngs=nnx.Rngs(0))


def test_the_implementation_is_chosen_when_called():
    linen, _, layer = twins(up=2, **SMALL)
    layer.implementation = "cuda"
    with pytest.raises(ValueError, match=r"implementation.*'cuda'"):
        layer(X)
    with pytest.raises(NotImplementedError, match="'mosaic_gpu' cannot run"):
        linen.clone(implementation="mosaic_gpu").init(jax.random.key(0), X)


def test_linen_options_are_keywords():
    with pytest.raises(TypeError, match="positional"):
        carafe_jax.linen.CARAFE(16)


def test_nnx_names_a_map_with_other_channels():
    with pytest.raises(ValueError, match=rf"x .*{CHANNELS} channels.*, 3\)"):
        twins(up=2, **SMALL).nnx(X[..., :3])


def test_layers_name_a_map_of_wrong_rank():
    with pytest.raises(ValueError, match=r"x .*rank 3.*\(6, 6\)"):
        carafe_jax.linen.CARAFE(up=2).init(jax.random.key(0), X[0, 0])
    with pytest.raises(ValueError, match=r"x .*rank 3.*\(6, 6\)"):
        twins(up=2, **SMALL).nnx(X[0, 0])


@pytest.mark.parametrize("dtype", ["int32", "complex64", "float8_e4m3fn"])
def test_layers_name_a_dtype_in_which_they_do_not_compute(dtype):
    with pytest.raises(ValueError, match=naming("dtype", dtype)):
        carafe_jax.linen.CARAFE(up=2, dtype=dtype).init(jax.random.key(0), X)
    with pytest.raises(ValueError, match=naming("dtype", dtype)):
        twins(up=2, **SMALL, dtype=dtype).nnx(X)


@pytest.mark.parametrize("value", [0, 6.0, "6", True], ids=repr)
def test_nnx_names_a_bad_number_of_channels(value):
    with pytest.raises(ValueError, match=naming("in_features", repr(value))):
        carafe_jax.nnx.CARAFE(value, up=2, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("shape", [(0, 8, CHANNELS), (8, 0, CHANNELS), (2, 8, 8, 0)])
def test_layers_name_an_empty_map(shape):
    x = jnp.zeros(shape)
    with pytest.raises(ValueError, match=naming("x", shape)):
        carafe_jax.linen.CARAFE(up=2).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=naming("x", shape)):
        twins(up=2, **SMALL).nnx(x)


def test_nnx_names_an_unknown_argument():
    with pytest.raises(TypeError, match=r"CARAFE .*scale"):
        carafe_jax.nnx.CARAFE(CHANNELS, scale=2, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_layer_with_a_dtype_takes_the_integers_of_an_image(dtype):
    linen, variables, layer = twins(up=2, dtype=dtype, **SMALL)
    image = (X * 50).astype(np.uint8)
    y = linen.apply(variables, image)
    assert y.dtype == layer(image).dtype == dtype
    np.testing.assert_array_equal(y, linen.apply(variables, image.astype(np.float32)))
    with pytest.raises(ValueError, match=naming("x", "uint8")):
        linen.clone(dtype=None).apply(variables, image)
