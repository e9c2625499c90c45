import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.segmentation.evaluation.class_maps import TILE, class_map, is_finite
from tests.experiments.segmentation.evaluation.interpolation import resized

# Pixels whose two highest probabilities are closer than this may be rounded either way.
CLOSE = 1e-5


def random_logits(*shape, seed=0):
    return 3 * np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def probabilities(views, height, width):
    total = 0
    for view in views:
        exponentials = np.exp(resized(view, height, width))
        total = total + exponentials / exponentials.sum(-1, keepdims=True)
    return total / len(views)


def assert_most_probable(found, wanted):
    """Asserts that the classes have the highest of the probabilities, up to rounding."""
    assert found.dtype == np.uint8
    assert found.shape == wanted.shape[:2]
    chosen = np.take_along_axis(wanted, found[..., None].astype(int), -1)[..., 0]
    assert (wanted.max(-1) - chosen).max() < CLOSE
    assert (found == wanted.argmax(-1)).mean() > 0.999


SIZES = [(1, 1), (5, 3), (40, 61), (TILE, TILE), (TILE + 1, 2 * TILE), (300, 77), (33, 700)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_classes_are_the_most_probable_at_the_size_of_the_image(height, width):
    views = [random_logits(2, 9, 14, 5), random_logits(2, 20, 28, 5, seed=1)]
    for used in (views[:1], views):
        for example in range(2):
            found = class_map(used, example, height, width).joined()
            own = [view[example] for view in used]
            assert_most_probable(found, probabilities(own, height, width))


def test_logits_are_resized_as_jax_resizes_them_without_antialiasing():
    logits = random_logits(1, 30, 17, 4)
    for height, width in [(7, 9), (300, 290), (30, 17)]:
        shape = (height, width, 4)
        right = jax.image.resize(jnp.asarray(logits[0]), shape, "bilinear", antialias=False)
        found = class_map([logits], 0, height, width).joined()
        assert_most_probable(found, np.asarray(jax.nn.softmax(right), np.float64))


def test_the_mean_is_taken_over_probabilities_and_not_over_logits():
    sure = np.array([11.0, 0, 0], np.float32).reshape(1, 1, 1, 3)
    unsure = np.array([0.0, 3, 5], np.float32).reshape(1, 1, 1, 3)
    assert (class_map([sure, unsure], 0, 2, 2).joined() == 0).all()
    assert (class_map([sure, unsure, unsure], 0, 2, 2).joined() == 2).all()
    assert np.argmax(sure + unsure + unsure) == 0


def test_the_lowest_of_equal_classes_is_chosen():
    logits = np.zeros((1, 3, 3, 4), np.float32)
    logits[..., 0] = -1
    for views in ([logits], [logits, logits]):
        assert (class_map(views, 0, 20, 30).joined() == 1).all()


def test_the_last_of_255_classes_is_found():
    logits = np.zeros((1, 2, 2, 255), np.float32)
    logits[..., 254] = 1
    assert (class_map([logits], 0, 3, 3).joined() == 254).all()
    with pytest.raises(ValueError, match=r"views .* 255 classes, got 256"):
        class_map([np.zeros((1, 2, 2, 256), np.float32)], 0, 3, 3)
    with pytest.raises(ValueError, match=r"views .* one .* none"):
        class_map([], 0, 3, 3)
    for side in (0, 2**30):
        with pytest.raises(ValueError, match=rf"height and width .* {side}"):
            class_map([logits], 0, 3, side)


def test_a_large_image_is_exact_in_every_tile():
    # Of two classes with logits x and -x, the first is where the interpolated x is positive. The
    # boundary is where 7 * column + 3 * row crosses a value, at any distance from the first tile.
    height, width = 3001, 4003
    rows, columns = np.mgrid[:11, :15].astype(np.float32)
    plane = 7 * columns + 3 * rows - 71.3
    found = class_map([np.stack([plane, -plane], -1)[None]], 0, height, width).joined()
    exact = [
        np.clip((np.arange(side) + 0.5) * count / side - 0.5, 0, count - 1)
        for side, count in ((height, 11), (width, 15))
    ]
    right = 7 * exact[1][None] + 3 * exact[0][:, None] - 71.3
    np.testing.assert_array_equal((found == 0)[abs(right) > 1e-4], (right > 0)[abs(right) > 1e-4])
    assert 0.2 < found.mean() < 0.8


def test_one_program_is_compiled_for_all_sizes_of_images(caplog):
    views = [random_logits(1, 6, 7, 3), random_logits(1, 12, 13, 3)]

    def compiles(views, *size):
        caplog.clear()
        with jax.log_compiles():
            class_map(views, 0, *size).joined()
        return "Compiling" in caplog.text

    assert compiles(views, 10, 10)
    assert not any(compiles(views, *size) for size in [(30, 20), (300, 7), (9, 999)])
    assert compiles(views[:1], 10, 10)


def test_examples_with_logits_that_are_not_finite_are_found():
    views = [random_logits(4, 5, 6, 3), random_logits(4, 7, 8, 3)]
    views[0][1, 4, 5, 2] = np.nan
    views[1][3, 0, 0, 0] = -np.inf
    assert np.asarray(is_finite(views)).tolist() == [True, False, True, False]
    assert np.asarray(is_finite(views[:1])).tolist() == [True, False, True, True]


def test_classes_are_computed_on_the_device_of_the_logits():
    device = jax.local_devices()[2]
    logits = jax.device_put(random_logits(1, 5, 6, 3), device)
    tiles = class_map([logits], 0, 300, 20).tiles
    assert [tile.devices() for row in tiles for tile in row] == [{device}] * 2


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_logits_of_16_bits_are_interpolated_with_32_bits(dtype):
    logits = jnp.asarray(random_logits(1, 9, 14, 5)).astype(dtype)
    found = class_map([logits], 0, 50, 60).joined()
    assert_most_probable(found, probabilities([np.asarray(logits[0], np.float64)], 50, 60))


def test_no_dtype_is_promoted_implicitly():
    logits = jnp.asarray(random_logits(1, 7, 8, 4))
    with jax.numpy_dtype_promotion("strict"):
        for views in ([logits], [logits, logits.astype(jnp.bfloat16)]):
            assert class_map(views, 0, 9, 10).joined().shape == (9, 10)
            assert np.asarray(is_finite(views)).all()
