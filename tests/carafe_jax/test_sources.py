"""Chains of reassemblies against products of dense matrices, which slow loops build from Eqn. 3."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from carafe_jax.sources import Reassembly, reassemble_chain, source_weights
from tests.carafe_jax.chains import random_chain, random_pyramid
from tests.kernels import oracle
from tests.slow import slow

SCALES = [(2, 1), (1, 2), (3, 2)]


def matrices(step, group):
    """The dense matrix ``[output, input]`` of one group of a reassembly."""
    height, width = step.output_size
    matrix = np.zeros((height, width, *step.size))
    taps = step.kernel_size**2
    for (row, column), (i, j), tap in oracle.reads(step.size, step.kernel_size, step.up, step.down):
        matrix[row, column, i, j] += step.kernels[row, column, group * taps + tap]
    return matrix


def dense_weights(chain):
    """Weights ``[H', W', H, W]`` of the first map in the last map: a mean over 12 channels."""
    total = 0
    for channel in range(12):
        product = None
        for step in chain:
            matrix = matrices(step, channel // (12 // step.groups))
            if product is None:
                product = matrix
            else:
                height, width = step.size
                product = np.einsum("abij,ijkl->abkl", matrix, product[:height, :width])
        total = total + product / 12
    return total


def all_targets(chain):
    return np.array([*np.ndindex(chain[-1].output_size)])


chains = st.integers(1, 4).flatmap(
    lambda n: st.tuples(
        st.integers(0, 2**16),
        st.tuples(st.integers(1, 7), st.integers(1, 7)),
        st.tuples(*[st.sampled_from(SCALES)] * n),
        st.tuples(*[st.sampled_from([1, 1, 2, 3])] * n),
        st.tuples(*[st.integers(0, 2)] * n),
    )
)


# Each example compiles a program, so failures are not shrunk.
@settings(max_examples=6, phases=[Phase.explicit, Phase.generate])
@given(chains)
def test_source_weights_are_the_product_of_dense_matrices(drawn):
    seed, size, scales, groups, crops = drawn
    rng = np.random.default_rng(seed)
    while np.prod(size) * 4 ** sum(up > down for up, down in scales) > 2500:
        scales, groups, crops = scales[:-1], groups[:-1], crops[:-1]
    chain = random_chain(rng, size, scales, groups, crops)
    targets = rng.permutation(all_targets(chain))[:5]
    weights = source_weights(chain, targets)
    assert weights.dtype == jnp.float32
    dense = dense_weights(chain)
    np.testing.assert_allclose(weights, dense[*targets.T], rtol=1e-5, atol=1e-7)
    assert weights.sum(axis=(1, 2)).max() <= 1 + 1e-6


@pytest.fixture(scope="module")
def pyramid():
    return random_pyramid()


# Pixels of the last map of the pyramid. Tests with five targets share a compiled program.
TARGETS = np.array([[0, 0], [2, 3], [1, 2], [2, 1], [0, 3]])


def test_weights_with_mixed_groups_are_the_mean_over_channels(pyramid):
    assert [step.size for step in pyramid] == [(3, 4), (5, 7)]
    weights = source_weights(pyramid, TARGETS)
    np.testing.assert_allclose(weights, dense_weights(pyramid)[*TARGETS.T], rtol=1e-5, atol=1e-7)
    # The mean over channels of the chain itself, for an impulse at each pixel.
    impulses = np.eye(12, dtype=np.float32).reshape(12, 3, 4, 1) * np.ones(6, np.float32)
    images = np.stack([reassemble_chain(pyramid, each).mean(axis=-1) for each in impulses], -1)
    images = images[*TARGETS.T].reshape(5, 3, 4)
    np.testing.assert_allclose(weights, images, rtol=1e-5, atol=1e-6)


def test_a_chain_is_the_loop_of_its_reassemblies(pyramid):
    x = np.random.default_rng(1).standard_normal((3, 4, 6)).astype(np.float32)
    expected = x[None]
    for step in pyramid:
        options = (step.kernel_size, step.up, step.down, step.groups)
        height, width = step.size
        expected = oracle.reassemble(expected[:, :height, :width], step.kernels[None], *options)
    y = reassemble_chain(pyramid, x)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, expected[0], rtol=1e-5, atol=1e-6)
    assert reassemble_chain(pyramid, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


# Without content, positive kernels: a window is where weights are positive.
SIDES = {(2, 1): [5, 7, 8, 9], (1, 2): [5, 13, 29, 61]}


@pytest.mark.parametrize("scale", SIDES, ids=["up", "down"])
@pytest.mark.parametrize("times", [1, slow(2), slow(3), slow(4)])
def test_windows_at_interior_targets_have_the_sides_of_the_geometry(scale, times):
    up, down = scale
    # Each axis has the same geometry: one row of pixels is enough, and rows beyond it are cropped.
    size = (1, 16 if up == 2 else 128)
    chain = []
    for _ in range(times):
        output = tuple(oracle.output_size(n, up, down) for n in size)
        kernels = jnp.full((*output, 25), 1 / 25)
        chain.append(Reassembly(kernels=kernels, size=size, kernel_size=5, up=up, down=down))
        size = (1, output[1])
    width = chain[-1].output_size[1]
    # All phases of `up ** times` targets.
    columns = width // 2 + np.arange(up**times)
    targets = np.stack([np.zeros_like(columns), columns], axis=1)
    positive = np.asarray(source_weights(chain, targets)[:, 0]) > 0  # [T, W]
    assert not positive[:, [0, -1]].any()
    assert positive.sum(axis=1).max() == SIDES[scale][times - 1]


def test_weights_of_normalised_kernels_sum_to_1_except_where_kernels_reach_the_border():
    rng = np.random.default_rng(2)
    chain = random_chain(rng, (8, 8), [(2, 1), (2, 1)], kernel_size=3)
    sums = source_weights(chain, all_targets(chain)).sum(axis=(1, 2)).reshape(32, 32)
    # A reassembly with k = 3 reaches over the border from the `up` outputs next to it.
    inside = sums[6:-6, 6:-6]
    np.testing.assert_allclose(inside, np.ones_like(inside), rtol=1e-6)
    assert sums.max() <= 1 + 1e-6
    border = np.ones_like(sums, dtype=bool)
    border[2:-2, 2:-2] = False
    assert sums[border].max() < 0.999


def test_source_weights_under_jit_and_vmap_equal_those_of_each_image(pyramid):
    batch = [
        [dataclasses.replace(step, kernels=step.kernels * scale) for step in pyramid]
        for scale in (1.0, 0.5)
    ]
    targets = np.stack([TARGETS, TARGETS[::-1]])
    stacked = jax.tree.map(lambda *kernels: jnp.stack(kernels), *batch)
    together = jax.jit(jax.vmap(source_weights))(stacked, targets)
    for chain, pixels, weights in zip(batch, targets, together, strict=True):
        np.testing.assert_allclose(weights, source_weights(chain, pixels), rtol=1e-6, atol=1e-8)


def test_only_known_targets_are_refused_and_others_have_no_weight(pyramid):
    outside = np.array([[-1, 0], [0, -1], [3, 0], [0, 4], [2, 3]])
    weights = jax.jit(source_weights)(pyramid, outside)
    np.testing.assert_array_equal(weights[:4], np.zeros_like(weights[:4]))
    assert weights[4].sum() > 0
    for index in range(4):
        targets = TARGETS.copy()
        targets[1] = outside[index]
        with pytest.raises(ValueError, match=rf"targets.*\(3, 4\).*\[{targets[1, 0]}, ") as error:
            source_weights(pyramid, targets)
        assert "targets[1]" in str(error.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
def test_targets_may_be_any_integers(pyramid, dtype):
    weights = source_weights(pyramid, TARGETS.astype(dtype))
    np.testing.assert_array_equal(weights, source_weights(pyramid, TARGETS.tolist()))


def test_no_targets_have_no_weights(pyramid):
    assert source_weights(pyramid, np.zeros((0, 2), int)).shape == (0, 3, 4)


def test_weights_are_float32_for_bfloat16_kernels_and_float64_for_float64_kernels(pyramid):
    half = [dataclasses.replace(s, kernels=s.kernels.astype(jnp.bfloat16)) for s in pyramid]
    weights = source_weights(half, TARGETS)
    assert weights.dtype == jnp.float32
    same = [dataclasses.replace(s, kernels=s.kernels.astype(np.float32)) for s in half]
    np.testing.assert_allclose(weights, source_weights(same, TARGETS), rtol=1e-6)
    with jax.enable_x64(True):
        mixed = [dataclasses.replace(pyramid[0], kernels=np.float64(pyramid[0].kernels))]
        weights = source_weights(mixed + pyramid[1:], TARGETS)
        assert weights.dtype == jnp.float64
        dense = dense_weights(pyramid)[*TARGETS.T]
        np.testing.assert_allclose(weights, dense, rtol=1e-12, atol=1e-15)


def test_a_reassembly_is_a_pytree_of_its_kernels(pyramid):
    leaves, tree = jax.tree.flatten(pyramid)
    assert [leaf is step.kernels for leaf, step in zip(leaves, pyramid, strict=True)] == [True] * 2
    empty = jax.tree.unflatten(tree, [object()] * 2)
    assert [step.size for step in empty] == [step.size for step in pyramid]
