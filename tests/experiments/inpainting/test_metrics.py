import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from experiments.inpainting.metrics import image_metrics


def test_against_scikit_image():
    rng = np.random.default_rng(0)
    original = rng.uniform(-1, 1, (3, 8, 9, 3)).astype(np.float32)
    mask = (rng.random((3, 8, 9, 1)) < 0.3).astype(np.float32)
    filled = np.where(mask > 0, rng.uniform(-1, 1, original.shape), original).astype(np.float32)
    metrics = image_metrics(filled, original, mask)
    for n in range(3):
        hole = np.broadcast_to(mask[n] > 0, original[n].shape)
        expected = peak_signal_noise_ratio(original[n], filled[n], data_range=2)
        assert metrics["psnr_image"][n] == pytest.approx(expected, abs=1e-4)
        expected = peak_signal_noise_ratio(original[n][hole], filled[n][hole], data_range=2)
        assert metrics["psnr_hole"][n] == pytest.approx(expected, abs=1e-4)
        error = np.abs(original[n] - filled[n]).mean() / 2 * 100
        assert metrics["l1_percent"][n] == pytest.approx(error, rel=1e-5)


def test_an_exact_fill_has_a_finite_psnr():
    image = np.zeros((1, 4, 4, 3), np.float32)
    metrics = image_metrics(image, image, np.ones((1, 4, 4, 1), np.float32))
    assert metrics["psnr_hole"] == pytest.approx(100)
