import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from experiments.detection.data.object_masks import box_mask, decode_mask
from tests.experiments.detection.fake_records import run_lengths


def covered_shares(mask, box, side):
    """The fraction of each bin that the mask covers, computed pixel by pixel."""
    x1, y1, x2, y2 = (float(edge) for edge in box)
    bin_width, bin_height = (x2 - x1) / side, (y2 - y1) / side
    shares = np.zeros((side, side))
    for row in range(side):
        for column in range(side):
            left, top = x1 + column * bin_width, y1 + row * bin_height
            for y in range(math.floor(top), math.ceil(top + bin_height)):
                for x in range(math.floor(left), math.ceil(left + bin_width)):
                    if y < mask.shape[0] and x < mask.shape[1] and mask[y, x]:
                        high = min(top + bin_height, y + 1) - max(top, y)
                        wide = min(left + bin_width, x + 1) - max(left, x)
                        shares[row, column] += max(high, 0) * max(wide, 0)
    return shares / (bin_width * bin_height)


@given(
    height=st.integers(2, 12),
    width=st.integers(2, 12),
    side=st.integers(1, 9),
    seed=st.integers(0, 99),
    whole=st.booleans(),
)
def test_against_a_loop(height, width, side, seed, whole):
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 2, (height, width), dtype=np.uint8)
    x1, y1 = rng.uniform(0, [width - 1, height - 1])
    x2, y2 = rng.uniform([x1 + 1, y1 + 1], [width, height])
    box = np.array([x1, y1, x2, y2])
    box = np.array([0, 0, width, height], np.float64) if whole else box
    shares = covered_shares(mask, box, side)
    found = box_mask(mask, box, side)
    assert found.dtype == np.uint8
    certain = abs(shares - 0.5) > 1e-4
    np.testing.assert_array_equal(found[certain], (shares > 0.5)[certain])


def test_by_hand():
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:6] = 1
    found = box_mask(mask, np.array([2.0, 0.0, 6.0, 4.0]), 4)
    np.testing.assert_array_equal(found, [[0] * 4, [1] * 4, [1] * 4, [0] * 4])
    # Bins that are exactly half covered are 1.
    found = box_mask(mask, np.array([0.0, 0.0, 6.0, 4.0]), 2)
    np.testing.assert_array_equal(found, [[0, 1], [0, 1]])


@given(
    numbers=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    side=st.sampled_from([1, 3, 7, 28]),
    seed=st.integers(0, 99),
)
def test_mirroring_commutes_with_cropping(numbers, side, seed):
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 2, (24, 24), dtype=np.uint8)
    x1, y1 = numbers[0] / 7, numbers[1] / 7
    x2, y2 = 24 - numbers[1] / 3, 24 - numbers[0] / 3
    found = box_mask(mask, np.array([x1, y1, x2, y2]), side)
    mirrored = box_mask(mask[:, ::-1], np.array([24 - x2, y1, 24 - x1, y2]), side)
    np.testing.assert_array_equal(mirrored, found[:, ::-1])


@pytest.mark.parametrize("side", [14, 56])
def test_a_disc_keeps_its_area(side):
    y, x = np.mgrid[:100, :100] + 0.5
    mask = ((x - 50) ** 2 + (y - 40) ** 2 < 30**2).astype(np.uint8)
    found = box_mask(mask, np.array([20.0, 10.0, 80.0, 70.0]), side)
    assert found.mean() == pytest.approx(np.pi / 4, abs=0.02)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@given(
    height=st.integers(1, 30), width=st.integers(1, 30), seed=st.integers(0, 9), bits=st.booleans()
)
def test_run_lengths_decode_as_in_pycocotools(height, width, seed, bits):
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 2, (height, width)) if bits else np.zeros((height, width))
    mask[: height // 2, : width // 3] = 1
    counts = run_lengths(mask)
    expected = coco_mask.decode({"size": [height, width], "counts": counts})
    found = decode_mask(counts, height, width)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found, mask)
    assert found.dtype == np.uint8


def test_run_lengths_of_another_image_are_refused():
    with pytest.raises(ValueError, match="reshape"):
        decode_mask(run_lengths(np.ones((5, 7))), 5, 8)
