import numpy as np
import pytest
from PIL import Image

from experiments.inpainting.prediction.scaling import paste_enlarged, shrink


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(("size", "side"), [((90, 126), 30), ((121, 90), 37), ((90, 121), 89)])
def test_small_pixels_are_means_of_visible_pixels(size, side):
    image, mask = noise(*size, 3), np.zeros(size, bool)
    mask[40:80, 20:61] = True  # ends within small pixels, and covers some of them
    small, small_mask = shrink(image, mask, side)
    assert min(small.shape[:2]) == side
    height, width = small_mask.shape
    covered = (
        [(n + 0.5) * height / size[0] for n in range(size[0])],
        [(n + 0.5) * width / size[1] for n in range(size[1])],
    )
    for row in range(height):
        for column in range(width):
            rows = [n for n, at in enumerate(covered[0]) if int(at) == row]
            columns = [n for n, at in enumerate(covered[1]) if int(at) == column]
            visible = ~mask[np.ix_(rows, columns)]
            assert small_mask[row, column] == (not visible.any())
            expected = image[np.ix_(rows, columns)][visible].mean(axis=0) if visible.any() else 0
            np.testing.assert_allclose(small[row, column], expected, atol=0.51)


def test_pasted_pixels_equal_the_whole_image_scaled_up():
    small, image, mask = noise(40, 56, 3), noise(300, 420, 3), np.zeros((300, 420), bool)
    mask[50:250, 100:101] = True
    mask[10:60, 300:420] = True
    wide = Image.fromarray(small).resize((420, 40), Image.Resampling.BICUBIC)
    whole = np.asarray(wide.resize((420, 300), Image.Resampling.BICUBIC))
    expected = np.where(mask[..., None], whole, image)
    paste_enlarged(small, image, mask)
    np.testing.assert_allclose(image.astype(int), expected, atol=1)
    np.testing.assert_array_equal(image[~mask], expected[~mask])
