from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from carafe_kernels.mosaic_gpu import launch


def order(first, second):
    """For each block, whether it belongs to the first work, and its index in its own work."""
    numbers = jnp.arange(first + second, dtype=jnp.int32)
    is_first, *indices = jax.vmap(lambda block: launch.block_order(block, first, second))(numbers)
    is_first = np.asarray(is_first)
    return is_first, np.where(is_first, *map(np.asarray, indices))


@pytest.mark.parametrize("limit", [launch.MAX_INDEX, 0], ids=["exact", "rounded"])
def test_every_block_of_both_works_runs_once(limit):
    counts = [(a, b) for a in range(1, 6) for b in range(1, 6)]
    with mock.patch.object(launch, "MAX_INDEX", limit):
        for first, second in [*counts, (650, 182), (182, 650), (350, 182), (4096, 1024)]:
            is_first, index = order(first, second)
            assert sorted(index[is_first]) == list(range(first))
            assert sorted(index[~is_first]) == list(range(second))


@pytest.mark.parametrize("counts", [(650, 182), (350, 182), (182, 1300), (7, 7)])
def test_both_works_make_equal_progress(counts):
    is_first, index = order(*counts)
    done = np.where(is_first, index / counts[0], index / counts[1])
    expected = np.arange(sum(counts)) / sum(counts)
    assert abs(done - expected).max() <= 1.01 / min(counts)


def test_products_of_numbers_of_blocks_do_not_overflow():
    """One product fits into 32 bits, the other does not."""
    for first, second in [(46_000, 600), (200_000, 40_000)]:
        is_first, index = order(first, second)
        assert is_first.sum() == first
        assert np.array_equal(np.sort(index[~is_first]), np.arange(second))
