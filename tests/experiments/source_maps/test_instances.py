import numpy as np

from experiments.source_maps.instances import (
    at_targets,
    box_masks,
    coverage,
    instance_map,
    resized,
)


def test_the_smallest_object_is_in_front():
    whole, corner = np.ones((2, 3), bool), np.zeros((2, 3), bool)
    corner[0, 0] = True
    np.testing.assert_array_equal(instance_map([corner, whole], (2, 3)), [[1, 2, 2], [2, 2, 2]])
    np.testing.assert_array_equal(instance_map([], (1, 2)), [[0, 0]])


def test_a_box_covers_the_pixels_whose_centres_it_contains():
    (mask,) = box_masks([[0.6, 1.0, 1.9, 1.0]], (3, 4))
    np.testing.assert_array_equal(np.argwhere(mask), [(1, 1)])


def test_a_resized_map_has_the_numbers_at_the_centres():
    np.testing.assert_array_equal(resized(np.array([[1, 2, 3, 4]]), (1, 2)), [[2, 4]])
    np.testing.assert_array_equal(resized(np.array([[1, 2]]), (2, 4)), [[1, 1, 2, 2]] * 2)


def test_the_pixel_at_the_centre_decides():
    numbers = np.zeros((6, 10), np.int32)
    numbers[2, 2], numbers[2, 6] = 1, 2
    expected = [[1, 2, -1], [-1, -1, -1]]
    np.testing.assert_array_equal(at_targets(numbers, 4, (2, 3)), expected)


def test_coverage_is_the_fraction_of_the_area():
    mask = np.zeros((3, 5), bool)
    mask[0, 0] = mask[:, 4] = True
    np.testing.assert_array_equal(
        coverage(mask, 2, (2, 4)), [[1 / 4, 0, 1 / 2, 0], [0, 0, 1 / 4, 0]]
    )
