import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as rle

from experiments.data.coco_masks import compressed_counts, decompressed

# pycocotools 2.0.11 passes masks to NumPy 2 in a deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE = (12, 20)
TRIANGLE = [1.0, 1.0, 9.5, 1.0, 9.5, 8.25]


def run_lengths(mask):
    """Returns run lengths of a mask, column by column; the first run consists of zeros."""
    lengths, value = [0], 0
    for pixel in mask.T.ravel():
        if pixel != value:
            lengths.append(0)
            value = pixel
        lengths[-1] += 1
    return lengths


def decoded(counts, size=SIZE):
    return rle.decode({"size": list(size), "counts": counts.encode()})


@st.composite
def masks(draw):
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    density = draw(st.sampled_from([0.0, 0.02, 0.5, 1.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return (rng.random((height, width)) < density).astype(np.uint8)


@given(masks())
def test_run_lengths_are_read_in_both_forms(mask):
    height, width = mask.shape
    lengths = run_lengths(mask)
    compressed = rle.encode(np.asfortranarray(mask))["counts"].decode()
    assert decompressed(compressed) == lengths
    for counts in (lengths, compressed):
        read = compressed_counts({"size": [height, width], "counts": counts}, height, width)
        np.testing.assert_array_equal(decoded(read, mask.shape), mask)


def test_the_mask_is_the_union_of_the_polygons():
    other = [5.0, 5.0, 15.0, 5.0, 15.0, 11.0, 5.0, 11.0]
    alone = [decoded(compressed_counts([polygon], *SIZE)) for polygon in (TRIANGLE, other)]
    both = decoded(compressed_counts([TRIANGLE, other], *SIZE))
    np.testing.assert_array_equal(both, alone[0] | alone[1])
    assert alone[1].sum() == 60
    assert both.sum() < 60 + alone[0].sum()


def test_a_polygon_with_the_length_of_a_box_is_a_polygon():
    """pycocotools would read four numbers as a box, so fewer than six are refused."""
    assert decoded(compressed_counts([[0, 0, 4, 0, 4, 4, 0, 4]], *SIZE)).sum() == 16


def test_a_polygon_may_have_many_corners():
    """It has far more corners than the limit of the outline would allow for distant corners."""
    angles = np.linspace(0, 2 * np.pi, 20_000)
    corners = np.stack([900 + 800 * np.cos(angles), 900 + 800 * np.sin(angles)], axis=-1)
    counts = compressed_counts([corners.ravel().tolist()], 1800, 1800)
    assert decoded(counts, (1800, 1800)).sum() == pytest.approx(np.pi * 800**2, rel=1e-3)


def test_an_empty_list_of_polygons_means_no_segmentation():
    assert compressed_counts([], *SIZE) == ""


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([TRIANGLE, TRIANGLE[:5]], r"polygon.* 5$"),
        ([TRIANGLE[:4]], r"polygon.* 4$"),
        ([[]], r"polygon.* 0$"),
        ([[*TRIANGLE[:5], float("nan")]], r"polygon.* nan"),
        ([[*TRIANGLE[:5], 1e9]], r"polygon.* 1000000000\.0"),
        ([[*TRIANGLE[:5], "3"]], r"polygon.*'3'"),
        ([[*TRIANGLE[:5], 10**400]], r"polygon.* 1000.*\.\.\."),
        ([[*TRIANGLE[:5], True]], r"polygon.* True"),
        ([[-9e4, 0, 9e4, 1] * 100], r"outline.* 36000000$"),
        ([[[1, 1], [9, 1], [9, 8]]], r"polygon.*\[\[1, 1\]"),
        (TRIANGLE, r"polygon.* 1\.0$"),
        ("abc", r"segmentation.* 'abc'"),
        (None, r"segmentation.* None"),
        ({"size": [12, 20]}, r"segmentation.*\[12, 20\]"),
        ({"size": [20, 12], "counts": [240]}, r"size.*\[12, 20\].*\[20, 12\]"),
        ({"size": [12, 20], "counts": [100, 20]}, r"240.* 120$"),
        ({"size": [12, 20], "counts": [250, -10]}, r"counts.* -10\]"),
        ({"size": [12, 20], "counts": [240.0]}, r"counts.*\[240\.0\]"),
        ({"size": [12, 20], "counts": 240}, r"counts.* 240$"),
        ({"size": [12, 20], "counts": [True, 239]}, r"counts.*\[True, 239\]"),
        ({"size": [12, 20], "counts": [10**4000, 10**4000]}, r"counts.* \[1000.*\.\.\."),
        ({"size": [12, 20], "counts": [2**62] * 4}, r"240.* 18446744073709551616$"),
        ({"size": [12.0, 20], "counts": [240]}, r"size.*\[12, 20\].*\[12\.0, 20\]"),
        ({"size": 12, "counts": [240]}, r"size.*\[12, 20\].* 12$"),
        ({"size": [12, 20], "counts": "o" * 10**6 + "0"}, r"counts.*'ooo.*\.\.\."),
        ({"size": [12, 20], "counts": "\ud800"}, r"counts.*'\\ud800'"),
        ({"size": [12, 20], "counts": "00"}, r"240.* 0$"),
        ({"size": [12, 20], "counts": "é"}, r"counts.*'é'"),
        ({"size": [12, 20], "counts": "`"}, r"counts.*'`'"),
    ],
)
def test_malformed_segmentations_are_refused(segmentation, message):
    with pytest.raises(ValueError, match=message):
        compressed_counts(segmentation, *SIZE)
