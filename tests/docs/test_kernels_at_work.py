import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "docs" / "figures" / "kernels_at_work.py"


@pytest.fixture(scope="module")
def figure():
    """The script as a module: docs/ is no package."""
    spec = importlib.util.spec_from_file_location("kernels_at_work", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.BATCH, module.CROP = 1, 32
    return module


def test_the_drawn_weights_make_the_pixels_of_the_photographs(
    figure, tmp_path, monkeypatch, capsys
):
    results, drawn = [], []
    draw, draw_kernel = figure.draw, figure.draw_kernel
    monkeypatch.setattr(
        figure, "draw", lambda result, path: [results.append(result), draw(result, path)]
    )
    monkeypatch.setattr(
        figure, "draw_kernel", lambda *arguments: [drawn.append(arguments), draw_kernel(*arguments)]
    )
    path = tmp_path / "kernels.png"
    figure.main(path, steps=2)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width == figure.WIDTH
    printed = capsys.readouterr().out
    assert "CARAFE++: " in printed
    assert "bilinear: 25.36 dB" in printed
    assert "bicubic: 25.81 dB" in printed

    (result,), (bilinear, *marked) = results, drawn
    assert len(marked) == len(figure.MARKED)
    for _, source, weights, pixel in marked:
        made = np.einsum("rc,rcd->d", weights, source)
        np.testing.assert_allclose(made, result.output[pixel], atol=2e-6)
        # One panel shows the weights of bilinear interpolation for all marked pixels.
        made = np.einsum("rc,rcd->d", bilinear[2], source)
        np.testing.assert_allclose(made, result.bilinear[pixel], atol=2e-6)


def test_a_seed_gives_the_same_network_each_time(figure):
    first, second = (figure.train(steps=2, seed=3) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)
