import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.inpainting.configs import ReconstructionConfig
from experiments.inpainting.losses import (
    discriminator_loss,
    generator_loss,
    hole_shares,
    reconstruction,
)

compiled = jax.jit(reconstruction, static_argnums=4)


# Few sizes, to limit compilation.
@given(size=st.sampled_from([(1, 1), (1, 7), (5, 1), (6, 7)]), seed=st.integers(0, 2**16))
def test_reconstruction_against_loops(size, seed):
    height, width = size
    rng = np.random.default_rng(seed)
    prediction, image = rng.uniform(-1, 1, (2, 2, height, width, 3)).astype(np.float32)
    mask = (rng.random((2, height, width, 1)) < 0.5).astype(np.float32)
    filled = mask * prediction + (1 - mask) * image
    weights = ReconstructionConfig(hole=6.0, valid=1.0, total_variation=0.1)
    found = compiled(prediction, filled, image, mask, weights)

    for b in range(2):
        total = 0.0
        for i, j in np.ndindex(height, width):
            weight = 6.0 if mask[b, i, j, 0] else 1.0
            total += weight * np.abs(prediction[b, i, j] - image[b, i, j]).sum()
            for n, m in ((i + 1, j), (i, j + 1)):
                inside = n < height and m < width
                if inside and (mask[b, i, j, 0] or mask[b, n, m, 0]):
                    total += 0.1 * np.abs(filled[b, n, m] - filled[b, i, j]).sum()
        np.testing.assert_allclose(found[b], total / (height * width * 3), rtol=1e-5)


def test_hole_shares_of_blocks():
    mask = np.zeros((1, 5, 4, 1), np.float32)
    mask[0, :2, :2], mask[0, 4, 3] = 1, 1
    expected = [[[4 / 4, 0], [0, 0], [0, 1 / 4]]]  # half of the last blocks is outside the image
    np.testing.assert_array_equal(hole_shares(mask, 2), expected)


SHARES = np.array([[[0.0, 0.5], [1.0, 0.0]]], np.float32)
REAL = np.array([[[9.0, 0.5], [3.0, 9.0]]], np.float32)
FAKE = np.array([[[9.0, -0.5], [1.0, 9.0]]], np.float32)


@pytest.mark.parametrize(
    ("kind", "discriminator", "generator"),
    [
        # Patches without a hole have weight 0, and patches half in the hole have half the weight.
        ("hinge", (0.5 * (0.5 + 0.5) + 1.0 * (0 + 2)) / 1.5, (0.5 * 0.5 + 1.0 * -1) / 1.5),
        (
            "least_squares",
            (0.5 * (0.25 + 0.25) + 1.0 * (4 + 1)) / 2 / 1.5,
            (0.5 * 2.25 + 1.0 * 0) / 2 / 1.5,
        ),
    ],
)
def test_adversarial_losses_judge_only_the_hole(kind, discriminator, generator):
    np.testing.assert_allclose(discriminator_loss(REAL, FAKE, SHARES, kind), [discriminator])
    np.testing.assert_allclose(generator_loss(FAKE, SHARES, kind), [generator])
