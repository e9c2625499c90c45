import hypothesis
import jax
import numpy as np
import pytest
import skimage.data
from hypothesis import strategies
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from experiments.inpainting.metrics import METRICS, image_metrics
from experiments.inpainting.ssim import similarity_map

pytestmark = pytest.mark.usefixtures("few_optimizations")

SIDE = 24
MEASURE = jax.jit(image_metrics)


def to_float(image):
    return (image / 127.5 - 1).astype(np.float32)


def skimage_similarity(image, other):
    """scikit-image's mean and map in float64; inputs are in [-1, 1]."""
    mean, each = structural_similarity(
        *(image.astype(np.float64) / 2 + 0.5 for image in (image, other)),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=-1,
        data_range=1.0,
        full=True,
    )
    return mean, each.mean(-1)


def photographs():
    """Crops of a photograph with faint and strong texture, and images without texture."""
    photograph = skimage.data.astronaut()
    crops = [photograph[y : y + SIDE, x : x + SIDE] for y, x in ((0, 0), (90, 210), (300, 60))]
    return np.stack([*crops, np.zeros_like(crops[0]), np.full_like(crops[0], 255)])


def fill_by(kind, image, rng):
    if kind == "noise":
        return rng.uniform(-1, 1, image.shape)
    if kind == "flat":
        return np.full(image.shape, rng.uniform(-1, 1))
    if kind == "close":
        return np.clip(image + rng.normal(0, 0.01, image.shape), -1, 1)
    return np.full(image.shape, -1.0 if kind == "black" else 1.0)


@hypothesis.given(
    strategies.integers(0, 2**32 - 1),
    strategies.sampled_from(["noise", "flat", "close", "black", "white"]),
    strategies.floats(0.02, 1),
)
def test_against_scikit_image(seed, kind, share):
    rng = np.random.default_rng(seed)
    original = to_float(photographs())
    mask = np.zeros((len(original), SIDE, SIDE, 1), np.float32)
    top, left = rng.integers(SIDE - 1, size=2)
    mask[:, top : top + max(1, round(share * SIDE)), left : left + max(1, round(share * SIDE))] = 1
    filled = np.where(mask > 0, fill_by(kind, original, rng), original).astype(np.float32)
    metrics = MEASURE(filled, original, mask)
    assert set(metrics) == set(METRICS)
    for n, (fill, true) in enumerate(zip(filled, original, strict=True)):
        hole = mask[n, ..., 0] > 0
        for part, where in (("image", np.ones_like(hole)), ("hole", hole)):
            error = fill[where].astype(np.float64) - true[where]
            assert metrics[f"l1_{part}"][n] == pytest.approx(50 * np.abs(error).mean(), rel=1e-5)
            if np.square(error).mean() > 4e-10:
                psnr = peak_signal_noise_ratio(true[where], fill[where], data_range=2)
                assert metrics[f"psnr_{part}"][n] == pytest.approx(psnr, abs=1e-3)
            else:
                assert metrics[f"psnr_{part}"][n] == pytest.approx(100, abs=1e-3)
        mean, each = skimage_similarity(fill, true)
        assert metrics["ssim_image"][n] == pytest.approx(mean, abs=1e-5)
        assert metrics["ssim_hole"][n] == pytest.approx(each[hole].mean(), abs=5e-5)


def test_the_map_agrees_with_scikit_image_up_to_the_border():
    rng = np.random.default_rng(0)
    image = to_float(rng.integers(0, 256, (2, 11, 17, 3)))
    other = np.clip(image + rng.normal(0, 0.3, image.shape), -1, 1).astype(np.float32)
    found = similarity_map(image, other)
    for n in range(2):
        _, expected = skimage_similarity(image[n], other[n])
        np.testing.assert_allclose(found[n], expected, atol=2e-6)
    np.testing.assert_allclose(similarity_map(other, image), found, atol=1e-6)


def test_metrics_on_bytes_are_the_same():
    # Other libraries measure on bytes, with a range of 255.
    rng = np.random.default_rng(1)
    true, fill = photographs()[0], rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    metrics = MEASURE(to_float(fill[None]), to_float(true[None]), np.ones((1, SIDE, SIDE, 1)))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = structural_similarity(true, fill, channel_axis=-1, **options)
    assert metrics["ssim_image"][0] == pytest.approx(expected, abs=1e-5)
    assert metrics["psnr_image"][0] == pytest.approx(peak_signal_noise_ratio(true, fill), abs=1e-4)


@pytest.mark.parametrize("share", [0, 1])
def test_an_exact_fill_and_an_image_without_a_hole_have_the_best_metrics(share):
    image = to_float(photographs())
    metrics = MEASURE(image, image, np.full((len(image), SIDE, SIDE, 1), share, np.float32))
    for name, values in metrics.items():
        best = {"l1": 0, "psnr": 100, "ssim": 1}[name.split("_")[0]]
        np.testing.assert_allclose(values, best, rtol=1e-6, err_msg=name)


def test_images_equal_under_the_window_have_a_similarity_of_exactly_one():
    rng = np.random.default_rng(0)
    original = to_float(rng.integers(0, 256, (1, SIDE, SIDE, 3)))
    filled = original.copy()
    filled[0, 9:14, 9:14] = 0.5
    reach = np.zeros((SIDE, SIDE), bool)
    reach[4:19, 4:19] = True
    found = np.asarray(similarity_map(filled, original))[0]
    assert (found[~reach] == 1).all()
    assert (found[reach] < 1).all()


def test_black_against_white_has_the_largest_error():
    white = np.ones((1, SIDE, SIDE, 3), np.float32)
    metrics = MEASURE(-white, white, np.ones((1, SIDE, SIDE, 1), np.float32))
    expected = {"l1": 100, "psnr": 0, "ssim": 1e-4 / (1 + 1e-4)}
    for name, values in metrics.items():
        assert values == pytest.approx(expected[name.split("_")[0]], abs=1e-5), name


def test_an_image_smaller_than_the_window_is_refused():
    with pytest.raises(ValueError, match=r"image.* 11x11.* 10x24"):
        similarity_map(*[np.zeros((1, 10, 24, 3), np.float32)] * 2)
