import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.data.masks import Brush, free_form_mask


@given(st.integers(0, 2**32), st.integers(1, 70), st.integers(1, 70))
def test_a_mask_is_never_empty_and_never_everything(seed, height, width):
    mask = free_form_mask(np.random.default_rng(seed), height, width)
    assert mask.shape == (height, width)
    assert mask.dtype == bool
    assert mask.any()
    assert not mask.all() or mask.size == 1


def test_the_same_generator_state_gives_the_same_mask():
    first, second = (free_form_mask(np.random.default_rng(7), 64, 64) for _ in range(2))
    other = free_form_mask(np.random.default_rng(8), 64, 64)
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
    with pytest.raises(ValueError, match=f"{name} must be a range within"):
        Brush(**ranges)


@pytest.mark.parametrize("width", [0.05, 0.2])
def test_a_stroke_is_as_wide_as_its_brush(width):
    brush = Brush(strokes=(1, 1), vertices=(1, 1), length=(0.5, 0.5), width=(width, width),
                  mean_angle=0.0, angle_range=0.0)  # fmt: skip
    masks = [free_form_mask(np.random.default_rng(seed), 200, 200, brush) for seed in range(20)]
    whole = [m for m in masks if not (m[0].any() or m[-1].any() or m[:, 0].any() or m[:, -1].any())]
    assert whole
    for mask in whole:  # angle 0 draws straight down
        assert mask.sum(axis=1).max() == pytest.approx(200 * width, abs=2)
        assert mask.any(axis=1).sum() == pytest.approx(100 + 200 * width, abs=4)
