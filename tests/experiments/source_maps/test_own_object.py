import jax.numpy as jnp
import numpy as np
import pytest

from carafe_jax.sources import Reassembly
from experiments.source_maps.instances import at_targets, coverage
from experiments.source_maps.own_object import (
    Mean,
    Shares,
    add_image,
    border_targets,
    own_object_shares,
)
from experiments.source_maps.pathways import Pathway, fixed_top_down, sources
from tests.experiments.source_maps.fixed_pathways import fixed_bottom_up

LEVELS = [(10, 14), (5, 7), (3, 4), (2, 2)]  # of an image of 40x56 pixels


def scene():
    numbers = np.zeros((40, 56), np.int32)
    numbers[4:30, 3:25] = 1
    numbers[10:40, 30:47] = 7  # numbers may have gaps
    return numbers


def random_pathway():
    rng = np.random.default_rng(0)
    steps = []
    for size in LEVELS[:0:-1]:
        logits = rng.normal(size=(2 * size[0], 2 * size[1], 9))
        kernels = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        steps.append(
            Reassembly(kernels=jnp.float32(kernels), size=size, kernel_size=3, up=2, down=1)
        )
    return Pathway(
        name="P5 to P2",
        steps=tuple(steps),
        source_stride=32,
        target_stride=4,
        target_size=(10, 14),
    )


def brute_force(pathway, numbers):
    """Shares from the source weights of one target after another."""
    stride, size = pathway.source_stride, pathway.source_size
    rows, columns = pathway.target_size
    targets = [(row, column) for row in range(rows) for column in range(columns)]
    shares = np.zeros((rows, columns))
    inside = coverage(np.ones(numbers.shape, bool), stride, size)
    for (row, column), weights in zip(targets, sources(pathway, targets), strict=True):
        half = pathway.target_stride // 2
        y, x = row * 2 * half + half, column * 2 * half + half
        if y < numbers.shape[0] and x < numbers.shape[1] and numbers[y, x]:
            covered = coverage(numbers == numbers[y, x], stride, size)
            shares[row, column] = (weights * covered).sum() / (weights * inside).sum()
    return shares


@pytest.mark.parametrize(
    "pathway",
    [random_pathway(), fixed_bottom_up((20, 28), "avg_pool")],
    ids=["random", "avg_pool"],
)
def test_shares_equal_those_from_the_source_weights(pathway):
    found = own_object_shares(pathway, scene())
    expected = brute_force(pathway, scene())
    assert (expected > 0).any()
    np.testing.assert_allclose(found.share, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(
        found.instance, at_targets(scene(), pathway.target_stride, pathway.target_size)
    )


def test_the_padding_of_the_input_has_no_weight_and_no_targets():
    cropped = scene()[:36, :44]
    found = own_object_shares(random_pathway(), cropped)
    np.testing.assert_allclose(
        found.share, brute_force(random_pathway(), cropped), rtol=1e-4, atol=1e-6
    )
    assert (found.instance[9:] == -1).all()
    assert (found.instance[:, 11:] == -1).all()
    assert found.share.max() <= 1 + 1e-6


def test_nearest_by_hand():
    numbers = np.zeros((64, 64), np.int32)
    numbers[:, :48] = 1
    pathway = fixed_top_down([(16, 16), (8, 8), (4, 4), (2, 2)], "nearest")
    share, instance, in_image = own_object_shares(pathway, numbers)
    # The object covers the left pixels of P5, and half of the right ones.
    np.testing.assert_allclose(share, np.tile([*[1.0] * 8, *[0.5] * 4, *[0.0] * 4], (16, 1)))
    np.testing.assert_array_equal(instance, np.tile([*[1] * 12, *[0] * 4], (16, 1)))
    np.testing.assert_allclose(in_image, 1)


def shares_of(values, instances):
    values = np.array(values)
    return Shares(values, np.array(instances), np.ones_like(values))


def test_a_target_is_near_a_border_if_a_box_filter_mixes_object_and_background():
    shares = shares_of([[0.0, 0.3, 1.0, 0.999999]], [[0, 2, 2, 2]])
    np.testing.assert_array_equal(border_targets(shares), [[False, True, False, False]])


def test_each_object_counts_once():
    mean = Mean()
    assert mean.mean is None
    shares = shares_of([[1.0, 1.0, 1.0, 0.5, 0.0]], [[1, 1, 1, 4, 0]])
    mean.add(shares, shares.instance > 0)
    assert (mean.targets, mean.objects, mean.mean) == (4, 2, 0.75)
    mean.add(shares_of([[0.0]], [[1]]), np.array([[True]]))
    assert (mean.targets, mean.objects, mean.mean) == (5, 3, 0.5)
    mean.add(shares, np.zeros((1, 5), bool))
    assert mean.objects == 3


def test_methods_are_compared_at_the_same_targets():
    means = {}
    methods = {name: fixed_top_down(LEVELS, name) for name in ("nearest", "bilinear", "box")}
    add_image(means, methods, scene())
    assert {(each.all.targets, each.all.objects) for each in means.values()} == {
        (means["box"].all.targets, 2)
    }
    assert {each.border.targets for each in means.values()} == {means["box"].border.targets}
    assert means["nearest"].all.mean > means["box"].all.mean
    # Only the kernels of the box filter reach beyond the map; coarse pixels are partly padding.
    assert means["box"].in_image.mean < means["bilinear"].in_image.mean < 1
