import jax
import numpy as np
import pytest

from carafe_jax.linen import CARAFE
from carafe_jax.sources import reassemble_chain
from experiments.resamplers.fixed_kernels import (
    avg_pool_kernels,
    bilinear_kernels,
    box_kernels,
    nearest_kernels,
    strided_kernels,
)
from experiments.resamplers.interpolation import bilinear, nearest
from experiments.resamplers.pooling import avg_pool

RESAMPLERS = [
    (nearest_kernels, nearest),
    (bilinear_kernels, bilinear),
    (avg_pool_kernels, avg_pool),
    (strided_kernels, lambda x: x[:, ::2, ::2]),
]


@pytest.mark.parametrize(("kernels", "resampler"), RESAMPLERS)
@pytest.mark.parametrize("size", [(5, 4), (1, 3)])
def test_a_reassembly_with_fixed_kernels_is_the_resampler(kernels, resampler, size):
    x = np.random.default_rng(0).normal(size=(*size, 2)).astype(np.float32)
    step = kernels(size)
    expected = resampler(x[None])[0]
    assert step.output_size == expected.shape[:2]
    np.testing.assert_allclose(reassemble_chain([step], x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [{"up": 2}, {"down": 2}])
def test_box_kernels_are_carafe_with_equal_logits(scale):
    layer = CARAFE(**scale, encoder_init=jax.nn.initializers.zeros)
    x = np.random.default_rng(0).normal(size=(5, 4, 2)).astype(np.float32)
    expected, _ = layer.init_with_output(jax.random.key(0), x)
    found = reassemble_chain([box_kernels((5, 4), **scale)], x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_box_kernels_of_another_size_by_hand():
    x = np.arange(4.0, dtype=np.float32).reshape(1, 4, 1)
    step = box_kernels((1, 4), kernel_size=3)
    np.testing.assert_allclose(
        reassemble_chain([step], x)[0, :, 0], np.array([1, 3, 6, 5]) / 9, rtol=1e-6
    )
