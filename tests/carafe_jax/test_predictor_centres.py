import jax
import numpy as np
import pytest

from tests.carafe_jax.twins import CHANNELS, SMALL, describe, random_map, twins
from tests.slow import slow


@pytest.mark.parametrize("size", [(8, 9)])
@pytest.mark.parametrize(
    ("options", "reads"),
    [
        ({"down": 2}, {-1, 0, 1}),
        ({"down": 2, "encoder_size": 1}, {0}),
        slow({"down": 2, "encoder_size": 5}, {-2, -1, 0, 1, 2}),
        ({"down": 2, "encoder_dilation": 2}, {-2, 0, 2}),
        slow({"down": 3}, {-1, 0, 1}),
        ({"up": 2}, {-1, 0, 1}),
        slow({"up": 3, "down": 2}, {-1, 0, 1}),
    ],
    ids=describe,
)
def test_logits_depend_on_exactly_the_sources_around_their_centre(options, reads, size):
    x = random_map(1, *size, CHANNELS)
    predict = twins(**SMALL, **options).nnx.kernel_predictor
    down = options.get("down", 1)
    jacobian = jax.jit(jax.jacrev(lambda x: predict(x)[0].sum(axis=-1)))(x)
    support = abs(jacobian).sum(axis=(2, 5)) > 0  # [q, r, i, j]
    for (q, r, i, j), depends in np.ndenumerate(support):
        assert depends == (i - down * q in reads and j - down * r in reads)


def test_logits_move_with_the_map():
    x = random_map(1, 12, 14, CHANNELS)
    predict = jax.jit(twins(down=2, **SMALL).nnx.kernel_predictor)
    moved = predict(np.roll(x, (2, 4), axis=(1, 2)))
    np.testing.assert_allclose(moved[:, 2:, 3:], predict(x)[:, 1:-1, 1:-2], rtol=1e-5, atol=1e-6)
