"""The smallest sets of pixels against a search over all sets."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carafe_jax.sources import smallest_sources


def smallest_by_search(weights, share):
    """The first of the smallest sets, over all sets of pixels."""
    flat = weights.ravel()
    for number in range(flat.size + 1):
        sets = itertools.combinations(range(flat.size), number)
        fitting = [each for each in sets if flat[[*each]].sum() >= share * flat.sum()]
        if fitting:
            # The largest weight, then the first pixels.
            best = max(fitting, key=lambda each: (flat[[*each]].sum(), [-i for i in each]))
            return np.isin(np.arange(flat.size), best).reshape(weights.shape)
    raise AssertionError


@given(
    st.lists(st.integers(0, 8), min_size=8, max_size=8),
    st.sampled_from([0.125, 0.25, 0.5, 0.75, 1.0]),
)
def test_smallest_sources_are_the_smallest_set(values, share):
    weights = np.array(values, np.float32).reshape(2, 4)
    np.testing.assert_array_equal(
        smallest_sources(weights, share), smallest_by_search(weights, share)
    )


def test_smallest_sources_of_a_batch():
    weights = np.random.default_rng(0).uniform(size=(2, 3, 4, 5)).astype(np.float32)
    sets = smallest_sources(weights)
    for index in np.ndindex(2, 3):
        np.testing.assert_array_equal(sets[index], smallest_sources(weights[index], share=0.7))
    np.testing.assert_array_equal(jax.jit(smallest_sources)(weights), sets)
    np.testing.assert_array_equal(jax.vmap(smallest_sources)(weights), sets)
    shares = np.where(sets, weights, 0).sum(axis=(2, 3)) / weights.sum(axis=(2, 3))
    assert shares.min() >= 0.7
    assert shares.max() < 0.75


def test_smallest_sources_sum_many_bfloat16_weights_exactly():
    weights = jnp.ones((32, 32), jnp.bfloat16)
    assert smallest_sources(weights, 0.5).sum() == 512


def test_all_positive_weights_are_the_smallest_set_of_everything():
    weights = np.array([[1, 1e-12, 0, 0.5]], np.float32)
    np.testing.assert_array_equal(smallest_sources(weights, 1), [[True, True, False, True]])


@pytest.mark.parametrize("share", [0, -0.5, 1.5, float("nan"), "0.5", None])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=f"share.*{share}"):
        smallest_sources(np.ones((2, 2), np.float32), share)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.array([[1, -0.5]], np.float32), "weights.*-0.5"),
        (np.array([[1, np.nan]], np.float32), "weights.*nan"),
        (np.array([[1, np.inf]], np.float32), "weights.*inf"),
        (np.ones((2, 2), int), "weights.*int64"),
        (np.ones(3, np.float32), r"weights.*\(3,\)"),
        ([[0.5]], "weights.*list"),
    ],
    ids=["negative", "NaN", "infinite", "integers", "one axis", "list"],
)
def test_wrong_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        smallest_sources(weights)
