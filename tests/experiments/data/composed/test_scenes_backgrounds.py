import numpy as np
import pytest
from PIL import Image

from experiments.data.composed.debian_manifest import PACKAGES
from experiments.data.composed.photographs import Photograph, pypi_photographs
from experiments.data.composed.scenes_backgrounds import backgrounds, scaled_pixels


def test_splits_share_no_photograph_and_none_shows_a_class():
    train, validation = backgrounds(pypi_photographs())
    assert [len(train), len(validation)] == [3, 2]
    names = {photograph.name for photograph in train + validation}
    assert len(names) == 5
    assert not names & {"sklearn-flower", "skimage-motorcycle_left"}


def test_45_of_the_71_photographs_are_used(tmp_path):
    photographs = pypi_photographs() + tuple(
        Photograph(f"{package.name}-{name.rsplit('.', 1)[0]}", tmp_path / name, "")
        for package in PACKAGES
        for name in package.files
    )
    assert [len(part) for part in backgrounds(photographs)] == [36, 9]


@pytest.mark.parametrize(
    ("size", "scaled"),
    [((600, 400), (60, 90)), ((50, 55), (55, 50)), ((20, 40), (80, 40)), ((60, 60), (60, 60))],
)
def test_photographs_leave_room_for_crops(tmp_path, size, scaled):
    path = tmp_path / "photograph.png"
    Image.new("RGB", size, (1, 2, 3)).save(path)
    pixels = scaled_pixels(Photograph("a", path, ""), 40)
    assert pixels.shape == (*scaled, 3)
    np.testing.assert_array_equal(pixels[0, 0], (1, 2, 3))
