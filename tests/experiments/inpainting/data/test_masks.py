import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.inpainting.data.masks import Brush, free_form_mask, hole_in_range, rectangle_mask

DRAWN = pytest.mark.parametrize("draw", [free_form_mask, rectangle_mask])


@DRAWN
@given(st.integers(0, 2**32), st.integers(1, 70), st.integers(1, 70))
def test_a_mask_is_never_all_false_and_never_all_true(draw, seed, height, width):
    mask = draw(np.random.default_rng(seed), height, width)
    assert mask.shape == (height, width)
    assert mask.dtype == bool
    assert mask.any()
    assert not mask.all() or mask.size == 1


@DRAWN
def test_the_same_generator_state_gives_the_same_mask(draw):
    first, second = (draw(np.random.default_rng(7), 64, 64) for _ in range(2))
    other = draw(np.random.default_rng(8), 64, 64)
    assert (first == second).all()
    assert (first != other).any()


def test_hole_ratios_vary():
    rng = np.random.default_rng(0)
    ratios = [free_form_mask(rng, 64, 64).mean() for _ in range(200)]
    assert np.percentile(ratios, 5) < 0.08
    assert np.percentile(ratios, 95) > 0.3


@pytest.mark.parametrize("ranges", [{"width": (3.0, 3.0)}, {"strokes": (0, 0)}, {"length": (1, 0)}])
def test_a_brush_that_cannot_draw_a_hole_is_refused(ranges):
    (name,) = ranges
    with pytest.raises(ValueError, match=rf"{name}.*{re.escape(str(ranges[name]))}"):
        Brush(**ranges)


@pytest.mark.parametrize("width", [0.05, 0.2])
def test_a_stroke_has_the_width_of_its_brush(width):
    brush = Brush(strokes=(1, 1), vertices=(1, 1), length=(0.5, 0.5), width=(width, width),
                  mean_angle=0.0, angle_range=0.0)  # fmt: skip
    masks = [free_form_mask(np.random.default_rng(seed), 200, 200, brush) for seed in range(20)]
    whole = [m for m in masks if not (m[0].any() or m[-1].any() or m[:, 0].any() or m[:, -1].any())]
    assert whole
    for mask in whole:  # with angle 0 strokes are vertical
        assert mask.sum(axis=1).max() == pytest.approx(200 * width, abs=2)
        assert mask.any(axis=1).sum() == pytest.approx(100 + 200 * width, abs=4)


def is_rectangle(mask):
    rows, columns = mask.any(axis=1), mask.any(axis=0)
    return (mask == np.outer(rows, columns)).all() and all(
        np.diff(np.flatnonzero(line)).max(initial=1) == 1 for line in (rows, columns)
    )


def test_a_rectangle_mask_is_one_rectangle_at_any_position():
    rng = np.random.default_rng(0)
    masks = [rectangle_mask(rng, 30, 60) for _ in range(400)]
    assert all(is_rectangle(mask) for mask in masks)
    assert {mask.any(axis=1).sum() for mask in masks} == set(range(3, 25))
    assert {mask.any(axis=0).sum() for mask in masks} >= set(range(7, 48))
    assert np.any(masks, axis=(0, 1)).all()
    assert np.any(masks, axis=(0, 2)).all()


def bucket(low):
    return low / 100, (low + 10) / 100


@pytest.mark.parametrize("shapes", ["free_form", "rectangles", "both"])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (64, 64), (40, 90)])
def test_a_hole_has_a_size_in_the_given_range(shapes, height, width):
    rng = np.random.default_rng(0)
    for low in range(0, 90, 10):
        shares = [hole_in_range(rng, height, width, shapes, bucket(low)).mean() for _ in range(20)]
        assert min(shares) >= low / 100
        assert max(shares) < (low + 10) / 100
        assert min(shares) > 0
        assert len(set(shares)) > 1


def test_holes_have_the_given_shapes():
    rectangular = {
        shapes: [
            is_rectangle(hole_in_range(np.random.default_rng(seed), 64, 64, shapes, bucket(10)))
            for seed in range(40)
        ]
        for shapes in ("free_form", "rectangles", "both")
    }
    assert sum(rectangular["free_form"]) == 0
    assert sum(rectangular["rectangles"]) > 20
    assert 5 < sum(rectangular["both"]) < sum(rectangular["rectangles"])


@pytest.mark.parametrize("shapes", ["free_form", "rectangles"])
@pytest.mark.parametrize(("side", "share"), [(1, (0.0, 0.1)), (1, (0.9, 1.0)), (3, (0.12, 0.2))])
def test_a_share_that_no_hole_can_have_is_named(shapes, side, share):
    with pytest.raises(ValueError, match=rf"share.*{side}x{side}.*{re.escape(str(share))}"):
        hole_in_range(np.random.default_rng(0), side, side, shapes, share)


@pytest.mark.parametrize("share", [(0.2, 0.2), (-0.1, 0.1), (0.5, 1.1)])
def test_a_share_that_is_not_a_range_is_refused(share):
    with pytest.raises(ValueError, match=rf"share.*{re.escape(str(share))}"):
        hole_in_range(np.random.default_rng(0), 8, 8, "both", share)
