import itertools

import jax
import numpy as np
import pytest

from carafe_jax.sources import Reassembly
from experiments.kernel_studies.mean_kernels import (
    kernel_sums,
    layers_of_small_maps,
    mean_kernels,
)
from tests.compilation import jit
from tests.kernels import oracle

# Size of the map, and geometry: kernel_size, up, down, groups.
CASES = [((7, 8), 5, 1, 2, 1), ((6, 7), 3, 2, 1, 2), ((8, 9), 3, 3, 2, 1)]


def reassembly(size, kernel_size, up, down, groups, images=3, seed=0, name="layer"):
    rows, columns = (oracle.output_size(each, up, down) for each in size)
    shape = (images, rows, columns, groups * kernel_size**2)
    kernels = np.random.default_rng(seed).random(shape).astype(np.float32)
    return Reassembly(
        kernels=kernels,
        size=size,
        kernel_size=kernel_size,
        up=up,
        down=down,
        groups=groups,
        name=name,
    )


def looped(steps, weights, inner):
    """The mean kernel of each phase, by a loop over all output pixels."""
    found = {}
    for step, weight in zip(steps, weights, strict=True):
        radius = step.kernel_size // 2
        for image, row, column in np.ndindex(step.kernels.shape[:3]):
            inside = all(
                radius <= oracle.centre(index, step.up, step.down) <= size - 1 - radius
                for index, size in zip((row, column), step.size, strict=True)
            )
            if weight[image] and (inside or not inner):
                phase = row % step.up, column % step.up
                found.setdefault(phase, []).append(np.float64(step.kernels[image, row, column]))
    return {phase: np.mean(kernels, axis=0) for phase, kernels in found.items()}


def summed(steps, weights):
    totals = None
    for step, weight in zip(steps, weights, strict=True):
        found = jax.device_get(jit(kernel_sums)((step,), weight))
        totals = found if totals is None else jax.tree.map(np.add, totals, found)
    return totals


@pytest.mark.parametrize("case", CASES)
def test_means_are_over_images_and_whole_windows_for_each_phase(case):
    size, *geometry = case
    larger = (size[0] + 1, size[1] + 3)
    steps = [reassembly(size, *geometry), reassembly(larger, *geometry, seed=1)]
    weights = [np.float32([1, 1, 0]), np.float32([0, 1, 1])]
    totals = summed(steps, weights)
    assert layers_of_small_maps(totals) == ()
    means = mean_kernels(totals)
    expected = looped(steps, weights, inner=True)
    up = geometry[1]
    assert sorted(expected) == list(itertools.product(range(up), range(up)))
    assert means["layer"].shape == (up, up, geometry[3] * geometry[0] ** 2)
    for phase, kernel in expected.items():
        np.testing.assert_allclose(means["layer"][phase], kernel, rtol=1e-5)


def test_all_pixels_count_if_no_window_lies_in_the_map():
    steps = [reassembly((4, 4), 5, 1, 2, 1), reassembly((9, 9), 5, 1, 2, 1, name="large")]
    weights = [np.float32([1, 0, 1])] * 2
    totals = summed(steps[:1], weights[:1]) | summed(steps[1:], weights[1:])
    assert layers_of_small_maps(totals) == ("layer",)
    means = mean_kernels(totals)
    for step, inner in zip(steps, (False, True), strict=True):
        kernel = looped([step], weights[:1], inner)[0, 0]
        np.testing.assert_allclose(means[step.name][0, 0], kernel, rtol=1e-5)


def test_all_calls_of_a_layer_count():
    steps = [reassembly((7, 7), 3, 2, 1, 1), reassembly((9, 8), 3, 2, 1, 1, seed=1)]
    weight = np.float32([1, 1, 0])
    means = mean_kernels(jax.device_get(jit(kernel_sums)(steps, weight)))
    for phase, kernel in looped(steps, [weight] * 2, inner=True).items():
        np.testing.assert_allclose(means["layer"][phase], kernel, rtol=1e-5)


def test_kernels_without_one_batch_axis_of_the_images_are_named():
    step = reassembly((7, 7), 3, 2, 1, 1)
    with pytest.raises(ValueError, match=r"'layer' .*2 images.*\(3, 14, 14, 9\)"):
        kernel_sums((step,), np.ones(2, np.float32))
