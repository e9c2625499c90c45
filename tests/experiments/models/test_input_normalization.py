import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine.config import ConfigError
from experiments.models.input_config import InputConfig
from experiments.models.input_normalization import normalize

RGB = InputConfig()
IMAGE = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3)).astype(np.uint8)
EXPECTED = (IMAGE / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]


def test_normalisation_equals_numpy():
    found = normalize(jnp.asarray(IMAGE), RGB)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, EXPECTED, atol=1e-5)
    np.testing.assert_allclose(normalize(jnp.asarray(IMAGE[0]), RGB), EXPECTED[0], atol=1e-5)


def test_padding_is_zero_afterwards():
    sizes = np.array([[5, 3], [2, 7]], np.int32)
    found = normalize(jnp.asarray(IMAGE), RGB, jnp.asarray(sizes))
    expected = EXPECTED.copy()
    for image, (height, width) in zip(expected, sizes, strict=True):
        image[height:] = 0
        image[:, width:] = 0
    np.testing.assert_allclose(found, expected, atol=1e-5)
    one = normalize(jnp.asarray(IMAGE[1]), RGB, jnp.asarray(sizes[1]))
    np.testing.assert_array_equal(one, found[1])


def test_channels_can_be_reversed_and_statistics_are_in_their_order():
    config = InputConfig("bgr", (1.0, 2.0, 3.0), (2.0, 4.0, 8.0))
    sizes = np.array([[5, 7], [2, 6]], np.int32)
    found = normalize(jnp.asarray(IMAGE), config, jnp.asarray(sizes))
    red, green, blue = np.moveaxis(IMAGE.astype(float), -1, 0)
    expected = np.stack([(blue - 1) / 2, (green - 2) / 4, (red - 3) / 8], axis=-1)
    expected[1, 2:], expected[1, :, 6:] = 0, 0
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": "grb"}, r"channels.*'bgr'.*'grb'"),
        ({"mean": (1.0, 2.0)}, r"mean.*\(1.0, 2.0\)"),
        ({"mean": (1.0, 2.0, float("nan"))}, r"mean.*nan"),
        ({"std": (1.0, 0.0, 1.0)}, r"std.*\(1.0, 0.0, 1.0\)"),
    ],
)
def test_bad_config(fields, message):
    with pytest.raises(ConfigError, match=message):
        InputConfig(**fields)
