import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from experiments.data.composed.scenes_composition import compose

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def plate(colour, size):
    """Returns a picture that stays fully opaque when it is resized."""
    return Image.new("RGBA", size, (*colour, 255))


# Each class has one colour; the first class has two cutouts.
CUTOUTS = [
    [plate(COLOURS[0], (40, 40)), plate(COLOURS[0], (40, 20))],
    [plate(COLOURS[1], (24, 40))],
    [plate(COLOURS[2], (40, 32))],
]


def sides(mask):
    """Returns height and width of the bounding box of a mask."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


@st.composite
def scenes(draw):
    height, width = draw(st.integers(40, 90)), draw(st.integers(40, 90))
    smallest = draw(st.integers(8, 20))
    sizes = (smallest, draw(st.integers(smallest, 60)))
    count = draw(st.integers(1, 8))
    background = np.full((height, width, 3), 40, np.uint8)
    seed = draw(st.integers(0, 2**32))
    return compose(np.random.default_rng(seed), background, CUTOUTS, count, sizes), count, sizes


@given(scenes())
def test_masks_are_the_visible_parts_of_objects(drawn):
    scene, count, _ = drawn
    expected = np.full((*scene.image.size[::-1], 3), 40)
    for label, mask in zip(scene.labels, scene.masks, strict=True):
        assert mask.sum() >= 16
        expected[mask] = COLOURS[label]
    np.testing.assert_array_equal(np.asarray(scene.image), expected)
    assert 1 <= len(scene.labels) <= count
    assert scene.masks.shape == (len(scene.labels), *expected.shape[:2])
    assert scene.masks.sum(axis=0).max() == 1
    # The nearest object is fully visible.
    assert scene.masks[-1].sum() == np.prod(sides(scene.masks[-1]))


@given(scenes())
def test_objects_have_sizes_within_the_limits_and_the_image(drawn):
    scene, _, (smallest, largest) = drawn
    assert max(max(sides(mask)) for mask in scene.masks) <= largest
    assert max(sides(scene.masks[-1])) >= min(smallest, *scene.image.size)


@pytest.mark.parametrize("seed", range(40))
def test_a_quarter_of_each_object_stays_visible(seed):
    """Uses squares of one size, whose full area is known."""
    square = Image.new("RGBA", (20, 20), (255, 0, 0, 255))
    background = np.zeros((50, 60, 3), np.uint8)
    scene = compose(np.random.default_rng(seed), background, [[square]], 20, (20, 20))
    seen = scene.masks.sum(axis=(1, 2))
    assert seen[-1] == 400
    assert seen.min() >= 100
    assert scene.masks.sum() == (np.asarray(scene.image)[..., 0] == 255).sum()
    assert len(seen) > 5


def test_an_object_without_a_free_position_is_left_out():
    square = Image.new("RGBA", (30, 30), (255, 0, 0, 255))
    background = np.zeros((30, 30, 3), np.uint8)
    scene = compose(np.random.default_rng(0), background, [[square]], 5, (30, 30))
    assert scene.labels == (0,)
    assert scene.masks.all()


def test_too_small_objects_are_not_pasted():
    """The object has 3x5 pixels."""
    background = np.zeros((30, 30, 3), np.uint8)
    cutout = Image.new("RGBA", (24, 40), (255, 0, 0, 255))
    scene = compose(np.random.default_rng(0), background, [[cutout]], 5, (5, 5))
    assert scene.labels == ()
    assert scene.masks.shape == (0, 30, 30)
    assert not np.asarray(scene.image).any()


def test_masks_cover_pixels_that_are_at_least_half_opaque():
    cutout = Image.new("RGBA", (20, 20), (255, 0, 0, 127))
    cutout.paste((255, 0, 0, 128), (0, 0, 20, 5))
    background = np.zeros((20, 20, 3), np.uint8)
    (mask,) = compose(np.random.default_rng(0), background, [[cutout]], 1, (20, 20)).masks
    assert mask[:5].all()
    assert not mask[5:].any()


def test_the_logarithm_of_sizes_is_uniform():
    square = Image.new("RGBA", (64, 64), (255, 0, 0, 255))
    background = np.zeros((100, 100, 3), np.uint8)
    rng = np.random.default_rng(3)
    lengths = [
        np.sqrt(compose(rng, background, [[square]], 1, (8, 64)).masks.sum()) for _ in range(600)
    ]
    shares = np.histogram(lengths, [0, 16, 32, 100])[0] / 600
    np.testing.assert_allclose(shares, 1 / 3, atol=0.06)


def test_objects_and_backgrounds_are_mirrored_half_of_the_time():
    left_half = Image.new("RGBA", (20, 20))
    left_half.paste((255, 0, 0, 255), (0, 0, 10, 20))
    background = np.zeros((20, 20, 3), np.uint8)
    background[:, :10, 2] = 200
    seen = set()
    for seed in range(40):
        scene = compose(np.random.default_rng(seed), background, [[left_half]], 1, (20, 20))
        object_left = bool(scene.masks[0, 10, 0])
        blue_left = int(np.asarray(scene.image)[10, 0 if not object_left else 19, 2] > 100)
        seen.add((object_left, blue_left))
    assert len(seen) == 4
