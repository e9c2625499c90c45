import jax
import numpy as np
import pytest

from carafe_jax.linen import CARAFE, collect_reassemblies
from carafe_jax.sources import Reassembly
from experiments.kernel_studies.border_sums import ring_sums, rings
from tests.compilation import jit
from tests.experiments.kernel_studies.test_mean_kernels import CASES, reassembly
from tests.kernels import oracle


def box(size, kernel_size, up, down):
    rows, columns = (oracle.output_size(each, up, down) for each in size)
    kernels = np.full((1, rows, columns, kernel_size**2), 1 / kernel_size**2, np.float32)
    return Reassembly(kernels=kernels, size=size, kernel_size=kernel_size, up=up, down=down)


@pytest.mark.parametrize("case", CASES)
def test_shares_of_the_weight_inside_the_map_are_summed_by_ring(case):
    size, kernel_size, up, down, groups = case
    step = reassembly(*case)
    weight = np.float32([1, 0, 1])
    found = jax.device_get(jit(ring_sums)((step,), weight))["layer"]

    shape = step.kernels.shape[:3]
    inside, boxes = np.zeros(shape), np.zeros(shape[1:])
    kernels = np.float64(step.kernels).reshape(*shape, groups, kernel_size**2)  # no sum is 1
    shares = kernels / kernels.sum(axis=-1, keepdims=True)
    for (row, column), _, tap in oracle.reads(size, kernel_size, up, down):
        inside[:, row, column] += shares[:, row, column, :, tap].mean(axis=-1)
        boxes[row, column] += 1 / kernel_size**2
    radius = kernel_size // 2
    expected = np.zeros((3, radius + 1))
    for row, column in np.ndindex(shape[1:]):
        i, j = (oracle.centre(index, up, down) for index in (row, column))
        ring = min(i, j, size[0] - 1 - i, size[1] - 1 - j, radius)
        for image in (0, 2):
            expected[:, ring] += inside[image, row, column], boxes[row, column], 1
    for sums, loop in zip(found, expected, strict=True):
        np.testing.assert_allclose(sums, loop, rtol=1e-5)


def test_a_box_kernel_has_9_of_25_weights_in_a_map_at_its_corner():
    step = box((3, 3), 5, 1, 2)  # all four outputs are centred on a corner
    found = ring_sums((step,), np.ones(1, np.float32))[""]
    np.testing.assert_allclose(found.inside, [4 * 9 / 25, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(found.box, found.inside, rtol=1e-6)
    np.testing.assert_array_equal(found.pixels, [4, 0, 0])


def test_the_kernels_of_sigmoid_have_a_share_inside_the_map():
    x = np.random.default_rng(0).normal(size=(1, 6, 5, 2)).astype(np.float32)
    layer = CARAFE(up=2, normalizer="sigmoid")
    variables = jit(layer.init)(jax.random.key(0), x)
    zero = jax.tree.map(np.zeros_like, variables)  # all weights are 1/2
    _, (step,) = collect_reassemblies(layer, zero, x)
    assert step.kernels.sum(axis=-1).min() == 12.5
    found = ring_sums((step,), np.ones(1, np.float32))[step.name]
    np.testing.assert_allclose(found.inside, found.box, rtol=1e-6)
    np.testing.assert_allclose(found.inside[-1], found.pixels[-1], rtol=1e-6)


def test_rings_are_distances_of_centres_in_input_pixels():
    one_ring = [0, 0, 1, 1, 1, 1, 0, 0]
    np.testing.assert_array_equal(rings(box((4, 4), 3, 2, 1))[3], one_ring)
    np.testing.assert_array_equal(rings(box((4, 4), 3, 2, 1))[0], np.zeros(8))
    # Centres 0, 2, 4 and 6 of 8 pixels: the last one is a pixel away from the border.
    np.testing.assert_array_equal(rings(box((8, 8), 5, 1, 2))[2], [0, 2, 2, 1])


def test_kernels_without_one_batch_axis_of_the_images_are_named():
    with pytest.raises(ValueError, match=r"'layer' .*2 images.*\(3, 14, 14, 9\)"):
        ring_sums((reassembly((7, 7), 3, 2, 1, 1),), np.ones(2, np.float32))


def test_a_reassembly_without_phases_is_refused():
    x = np.zeros((1, 6, 5, 2), np.float32)
    layer = CARAFE(up=2)
    variables = jit(layer.init)(jax.random.key(0), x)
    _, (step,) = collect_reassemblies(layer, variables, x, size=(8, 7))
    with pytest.raises(ValueError, match=r"scale.*4, 3.*7, 5"):
        rings(step)
