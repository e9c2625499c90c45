from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.data.composed import photographs
from experiments.data.composed.photographs import debian_photographs, pypi_photographs
from experiments.data.errors import DataError

SIZES = {
    "skimage-astronaut": (512, 512),
    "skimage-chelsea": (451, 300),
    "skimage-coffee": (600, 400),
    "skimage-motorcycle_left": (741, 500),
    "skimage-rocket": (640, 427),
    "sklearn-china": (640, 427),
    "sklearn-flower": (640, 427),
}


def thumbnail(path: Path) -> np.ndarray:
    """Returns a unit vector of the 16x16 grey values of a photograph, minus their mean."""
    with Image.open(path) as image:
        grey = np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BOX), float)
    centred = grey.ravel() - grey.mean()
    return centred / np.linalg.norm(centred)


def test_pypi_photographs_decode_in_colour() -> None:
    sizes = {}
    for photograph in pypi_photographs():
        with Image.open(photograph.path) as image:
            assert image.mode == "RGB"
            pixels = np.asarray(image).astype(int)
            sizes[photograph.name] = image.size
        assert np.abs(pixels[..., 0] - pixels[..., 2]).mean() > 5, "looks grey"
    assert sizes == SIZES


def test_pypi_photographs_show_different_things() -> None:
    thumbnails = {photograph.name: thumbnail(photograph.path) for photograph in pypi_photographs()}
    for first, second in combinations(thumbnails, 2):
        assert thumbnails[first] @ thumbnails[second] < 0.8, (first, second)


def test_origin_names_the_package_and_the_file() -> None:
    for photograph in pypi_photographs():
        package, file = photograph.origin.split(": ")
        assert package in ("scikit-image", "scikit-learn")
        assert photograph.path.as_posix().endswith(f"/{file}")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "find_spec", lambda module: None)
    with pytest.raises(DataError, match=r"astronaut\.png.*pip install.* scikit-image"):
        pypi_photographs()


def test_an_empty_cache_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"opencv-doc.*data\.composed\.debian --cache"):
        debian_photographs(tmp_path)
