import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.pyramid.borders import border_pixels


def slow_border(labels, distance):
    """Compares every pixel with every other one."""
    border = np.zeros(labels.shape, bool)
    for at in np.ndindex(labels.shape):
        for other in np.ndindex(labels.shape):
            near = max(abs(at[0] - other[0]), abs(at[1] - other[1])) <= distance
            border[at] |= near and labels[at] != labels[other]
    return border


@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    distance=st.integers(1, 5),
    seed=st.integers(0, 1000),
    classes=st.integers(1, 3),
)
def test_border_pixels(size, distance, seed, classes):
    rng = np.random.default_rng(seed)
    # Mostly one class, so that some pixels are far from a border.
    labels = np.where(rng.random(size) < 0.95, 0, rng.choice([255, 1, 7][:classes], size))
    labels = labels.astype(np.uint8)
    found = border_pixels(labels, distance)
    np.testing.assert_array_equal(found, slow_border(labels, distance))


def test_images_do_not_border_on_each_other():
    labels = np.zeros((2, 5, 6), np.uint8)
    labels[1] = 3
    assert not border_pixels(labels, 4).any()


@pytest.mark.parametrize(("distance", "columns"), [(1, 2), (4, 8)])
def test_both_sides_of_a_border_are_near_it(distance, columns):
    labels = np.zeros((3, 20), np.uint8)
    labels[:, 10:] = 1
    found = border_pixels(labels, distance)
    assert found.sum() == 3 * columns
    assert found[:, 10 - distance : 10 + distance].all()
