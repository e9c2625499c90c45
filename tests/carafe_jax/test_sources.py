"""Chains of reassemblies against products of dense matrices, which slow loops build from Eqn. 3."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from carafe_jax.sources import Reassembly, reassemble_chain, smallest_sources, source_weights
from tests.kernels import oracle
from tests.slow import slow

SCALES = [(2, 1), (1, 2), (3, 2)]


def softmax_kernels(rng, shape, groups, taps):
    logits = rng.standard_normal((*shape, groups, taps))
    return oracle.softmax(logits).reshape(*shape, groups * taps).astype(np.float32)


def random_step(rng, size, up=1, down=1, kernel_size=3, groups=1, batch=(), name=""):
    output = [oracle.output_size(n, up, down) for n in size]
    kernels = softmax_kernels(rng, (*batch, *output), groups, kernel_size**2)
    return Reassembly(
        kernels=kernels,
        size=tuple(size),
        kernel_size=kernel_size,
        up=up,
        down=down,
        groups=groups,
        name=name,
    )


def random_chain(rng, size, scales, groups=(1,) * 4, crops=(0,) * 4, **options):
    """A chain; a map is cropped by an entry of `crops` before the next reassembly."""
    chain = []
    for (up, down), group, crop in zip(scales, groups, crops, strict=False):
        chain.append(random_step(rng, size, up, down, groups=group, **options))
        size = [n - min(crop % up, n - 1) for n in chain[-1].output_size]
    return chain


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
    """An upsampler of 2 groups, a crop, and a downsampler of 3 groups."""
    return random_chain(np.random.default_rng(0), (3, 4), [(2, 1), (1, 2)], (2, 3), (1, 0))


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


def changed(chain, index, **fields):
    return [*chain[:index], dataclasses.replace(chain[index], **fields), *chain[index + 1 :]]


WRONG_CHAINS = {
    "empty": (lambda chain: [], r"chain must.*none"),
    "not a sequence": (lambda chain: chain[0], r"chain must.*got Reassembly"),
    "an array": (lambda chain: [chain[0], chain[1].kernels], r"chain\[1\].*Reassembly.*ndarray"),
    "kernels of another size": (
        lambda chain: changed(chain, 1, kernels=chain[0].kernels),
        r"kernels of chain\[1\].*\(3, 4, 27\).*\(6, 8, 18\)",
    ),
    "kernels of another kernel size": (
        lambda chain: changed(chain, 0, kernel_size=5, name="neck/up"),
        r"kernels of chain\[0\] \(neck/up\).*\(6, 8, 50\).*\(6, 8, 18\)",
    ),
    "integer kernels": (
        lambda chain: changed(chain, 1, kernels=np.ones((3, 4, 27), int)),
        r"kernels of chain\[1\].*int64",
    ),
    "no kernels": (
        lambda chain: changed(chain, 1, kernels=None),
        r"kernels of chain\[1\].*NoneType",
    ),
    "even kernel size": (
        lambda chain: changed(chain, 1, kernel_size=4),
        r"chain\[1\].*kernel_size.*4",
    ),
    "no groups": (lambda chain: changed(chain, 1, groups=0), r"chain\[1\].*groups.*0"),
    "one size": (lambda chain: changed(chain, 1, size=5), r"size of chain\[1\].*5"),
    "no pixels": (lambda chain: changed(chain, 0, size=(3, 0)), r"size of chain\[0\].*0"),
    "a larger map than there is": (
        lambda chain: [chain[0], random_step(np.random.default_rng(0), (7, 7))],
        r"size of chain\[1\].*\(6, 8\).*up=2.*\(7, 7\)",
    ),
    "a crop of more than a cell": (
        lambda chain: [chain[0], random_step(np.random.default_rng(0), (5, 6))],
        r"size of chain\[1\].*\(6, 8\).*up=2.*\(5, 6\)",
    ),
    "a crop after downsampling": (
        lambda chain: [*chain, random_step(np.random.default_rng(0), (3, 3))],
        r"size of chain\[2\].*\(3, 4\).*up=1.*\(3, 3\)",
    ),
}


@pytest.mark.parametrize("case", WRONG_CHAINS)
def test_chains_that_do_not_fit_are_refused(case, pyramid):
    change, message = WRONG_CHAINS[case]
    chain = change(pyramid)
    with pytest.raises(ValueError, match=message):
        source_weights(chain, [[0, 0]])
    with pytest.raises(ValueError, match=message):
        reassemble_chain(chain, jnp.ones((3, 4, 6)))


@pytest.mark.parametrize("shape", [(4, 4, 6), (2, 4, 6), (3, 5, 6)])
def test_a_first_map_of_another_size_is_refused(shape, pyramid):
    with pytest.raises(ValueError, match=r"x must.*\(3, 4\)") as error:
        reassemble_chain(pyramid, jnp.ones(shape))
    assert str(shape) in str(error.value)


def test_maps_that_do_not_fit_the_kernels_are_refused(pyramid):
    with pytest.raises(ValueError, match=r"kernels of chain\[0\].*\(2,\).*\(6, 8, 18\)"):
        reassemble_chain(pyramid, jnp.ones((2, 3, 4, 6)))
    with pytest.raises(ValueError, match=r"groups.*4.*3"):
        reassemble_chain(pyramid, jnp.ones((3, 4, 4)))


def test_kernels_with_batch_axes_need_vmap(pyramid):
    stacked = jax.tree.map(lambda kernels: kernels[None], pyramid)
    with pytest.raises(ValueError, match=r"kernels of chain\[0\].*\(1, 6, 8, 18\).*vmap"):
        source_weights(stacked, [[0, 0]])


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.zeros((1, 2)), "targets.*float64"),
        (np.zeros((1, 2), bool), "targets.*bool"),
        (np.zeros(2, int), r"targets.*\(2,\)"),
        (np.zeros((2, 3), int), r"targets.*\(2, 3\)"),
        (np.array([[2**32, 0]]), r"targets.*4294967296"),
    ],
    ids=["floats", "bools", "one", "three", "large"],
)
def test_targets_must_be_pairs_of_integers(targets, message, pyramid):
    with pytest.raises(ValueError, match=message):
        source_weights(pyramid, targets)


def test_a_reassembly_is_a_pytree_of_its_kernels(pyramid):
    leaves, tree = jax.tree.flatten(pyramid)
    assert [leaf is step.kernels for leaf, step in zip(leaves, pyramid, strict=True)] == [True] * 2
    empty = jax.tree.unflatten(tree, [object()] * 2)
    assert [step.size for step in empty] == [step.size for step in pyramid]


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
