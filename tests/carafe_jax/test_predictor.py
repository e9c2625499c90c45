import jax
import jax.numpy as jnp
import numpy as np
import pytest
from carafe_kernels.geometry import Geometry

from carafe_jax._predictor import COMPRESSOR_INIT, ENCODER_INIT, PredictorSpec
from tests.kernels.errors import naming


@pytest.mark.parametrize(
    ("geometry", "channels"),
    [
        (Geometry(up=2), 64),
        (Geometry(down=2), 16),
        (Geometry(up=3, down=2), 64),
        (Geometry(), 16),
    ],
    ids=str,
)
def test_automatic_compression_is_the_papers(geometry, channels):
    assert PredictorSpec(geometry).compressed_channels == channels


@pytest.mark.parametrize("channels", [None, 1, 8, np.int64(8)])
def test_given_compression_is_kept(channels):
    assert PredictorSpec(Geometry(up=2), channels).compressed_channels == channels


@pytest.mark.parametrize(
    ("geometry", "features", "stride"),
    [
        (Geometry(5, up=2), 100, 1),
        (Geometry(5, down=2), 25, 2),
        (Geometry(3, up=3, down=2, groups=2), 162, 2),
    ],
    ids=str,
)
def test_encoder_predicts_every_kernel_of_a_place(geometry, features, stride):
    spec = PredictorSpec(geometry)
    assert (spec.encoder_features, spec.encoder_stride) == (features, stride)


@pytest.mark.parametrize(
    ("size", "dilation", "reach"), [(1, 1, 0), (3, 1, 1), (5, 1, 2), (3, 2, 2)]
)
def test_encoder_padding_is_the_same_on_every_side(size, dilation, reach):
    spec = PredictorSpec(Geometry(down=2), encoder_size=size, encoder_dilation=dilation)
    assert spec.encoder_padding == ((reach, reach), (reach, reach))


@pytest.mark.parametrize("name", ["compressed_channels", "encoder_size", "encoder_dilation"])
@pytest.mark.parametrize("value", [0, -1, 3.0, "3", True], ids=repr)
def test_options_must_be_positive_integers(name, value):
    with pytest.raises(ValueError, match=naming(name, repr(value))):
        PredictorSpec(Geometry(up=2), **{name: value})


def test_encoder_size_must_be_odd():
    with pytest.raises(ValueError, match=r"encoder_size.*odd.*2"):
        PredictorSpec(Geometry(up=2), encoder_size=2)


def test_compressor_starts_xavier_uniform():
    fan_in, fan_out = 256, 64
    kernel = COMPRESSOR_INIT(jax.random.key(0), (1, 1, fan_in, fan_out), jnp.float32)
    limit = np.sqrt(6 / (fan_in + fan_out))
    assert 0.99 * limit < abs(kernel).max() <= limit
    np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.02)


def test_encoder_starts_normal_with_the_papers_deviation():
    kernel = ENCODER_INIT(jax.random.key(0), (3, 3, 64, 100), jnp.float32)
    np.testing.assert_allclose(kernel.std(), 0.001, rtol=0.02)
    assert abs(kernel.mean()) < 1e-5
    assert abs(kernel).max() > 0.0035
