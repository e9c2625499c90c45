import jax.numpy as jnp
import numpy as np

from experiments.models.imagenet_statistics import normalize

IMAGE = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3)).astype(np.uint8)
EXPECTED = (IMAGE / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]


def test_normalisation_equals_numpy():
    found = normalize(jnp.asarray(IMAGE))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, EXPECTED, atol=1e-5)
    np.testing.assert_allclose(normalize(jnp.asarray(IMAGE[0])), EXPECTED[0], atol=1e-5)


def test_padding_is_zero_afterwards():
    sizes = np.array([[5, 3], [2, 7]], np.int32)
    found = normalize(jnp.asarray(IMAGE), jnp.asarray(sizes))
    expected = EXPECTED.copy()
    for image, (height, width) in zip(expected, sizes, strict=True):
        image[height:] = 0
        image[:, width:] = 0
    np.testing.assert_allclose(found, expected, atol=1e-5)
    one = normalize(jnp.asarray(IMAGE[1]), jnp.asarray(sizes[1]))
    np.testing.assert_array_equal(one, found[1])
