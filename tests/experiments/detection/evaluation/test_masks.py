import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as run_lengths

from experiments.detection.evaluation.masks import encode_mask, paste_mask

# pycocotools makes arrays in a way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def probability_at(probabilities, box, x, y):
    """The mask's value at a point of the image, with zeros around the mask."""
    x1, y1, x2, y2 = box
    side = len(probabilities)
    row, column = (y - y1) / (y2 - y1) * side - 0.5, (x - x1) / (x2 - x1) * side - 0.5
    total = 0.0
    for i in range(side):
        for j in range(side):
            weight = max(0, 1 - abs(i - row)) * max(0, 1 - abs(j - column))
            total += weight * float(probabilities[i, j])
    return total


@given(
    seed=st.integers(0, 2**16),
    side=st.integers(1, 6),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
)
def test_pixels_belong_to_the_object_where_the_mask_is_at_least_a_half(seed, side, height, width):
    rng = np.random.default_rng(seed)
    probabilities = rng.random((side, side)).astype(np.float32)
    x1, x2 = np.sort(rng.uniform(-4, width + 4, 2))
    y1, y2 = np.sort(rng.uniform(-4, height + 4, 2))
    box = np.array([x1, y1, x2 + 0.01, y2 + 0.01])
    found = run_lengths.decode(paste_mask(probabilities, box, height, width))
    assert found.shape == (height, width)
    for y in range(height):
        for x in range(width):
            right = probability_at(probabilities, box, x + 0.5, y + 0.5)
            if abs(right - 0.5) > 1e-5:
                assert found[y, x] == (right > 0.5), (y, x, right)


def test_a_full_mask_covers_the_pixels_whose_centres_are_in_the_box_or_on_its_border():
    ones = np.ones((28, 28), np.float32)
    found = run_lengths.decode(paste_mask(ones, np.array([1.5, 0.6, 4.5, 2.4]), 4, 6))
    expected = np.zeros((4, 6))
    expected[1, 1:5] = 1  # only the row with centre 1.5 lies in 0.6..2.4
    np.testing.assert_array_equal(found, expected)
    whole = paste_mask(ones, np.array([0.0, 0.0, 6.0, 4.0]), 4, 6)
    assert run_lengths.area(whole) == 24


@pytest.mark.parametrize(
    "box", [(2.5, 1, 2.5, 3), (1, 2, 4, 2), (4, 1, 2, 3), (7, 1, 9, 3), (-5, 0, -1, 3)]
)
def test_a_box_without_area_or_outside_the_image_covers_no_pixel(box):
    code = paste_mask(np.ones((2, 2), np.float32), np.array(box, np.float64), 4, 6)
    assert run_lengths.area(code) == 0
    assert code["size"] == [4, 6]


def test_codes_are_text_for_json_and_decode_to_the_mask():
    mask = np.random.default_rng(0).random((7, 5)) > 0.4
    code = encode_mask(mask)
    assert isinstance(code["counts"], str)
    assert all(type(side) is int for side in code["size"])
    np.testing.assert_array_equal(run_lengths.decode(code), mask)
