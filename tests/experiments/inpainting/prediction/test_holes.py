import os
import zlib

import numpy as np
import pytest
from PIL import Image

from experiments.engine.errors import InputError
from experiments.inpainting.data.masks import free_form_mask
from experiments.inpainting.prediction.holes import (
    HoleChoice,
    hole_from_box,
    hole_from_brush,
    hole_from_file,
)


def save(path, values):
    Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_white_is_the_hole_in_any_image_mode(tmp_path, mode):
    hole = np.zeros((4, 6), bool)
    hole[1:3, 2:] = True
    path = tmp_path / "mask.tiff"
    Image.fromarray(hole.astype(np.uint8) * 255).convert("RGB").convert(mode).save(path)
    np.testing.assert_array_equal(hole_from_file(path, (4, 6)), hole)


def test_white_begins_at_half_of_the_range(tmp_path):
    path = save(tmp_path / "mask.png", np.array([[127, 128]], np.uint8))
    np.testing.assert_array_equal(hole_from_file(path, (1, 2)), [[False, True]])


@pytest.mark.parametrize("colour", [0, 128, 255])
@pytest.mark.parametrize("beneath", [0, 255])
@pytest.mark.parametrize("opacity", [0, 100, 254])
def test_a_mask_with_transparent_pixels_is_ambiguous_and_refused(
    tmp_path, colour, beneath, opacity
):
    values = np.full((4, 5, 4), 255, np.uint8)
    values[..., :3] = colour
    values[1:] = beneath, beneath, beneath, opacity
    path = save(tmp_path / "mask.png", values)
    with pytest.raises(InputError, match=r"mask\.png.* white, opaque .* transparent ones\. Save"):
        hole_from_file(path, (4, 5))


def test_a_transparent_palette_colour_is_refused_only_if_it_is_used(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 255, 255, 255, 9, 9, 9])
    image.save(tmp_path / "mask.png", transparency=2)
    with pytest.raises(InputError, match=r"mask\.png.* transparent"):
        hole_from_file(tmp_path / "mask.png", (2, 2))
    image.save(tmp_path / "mask.png", transparency=200)  # no pixel has this colour
    np.testing.assert_array_equal(
        hole_from_file(tmp_path / "mask.png", (2, 2)), [[False, True], [False, True]]
    )


def test_an_opaque_alpha_channel_of_a_mask_is_ignored(tmp_path):
    values = np.full((4, 5, 4), 255, np.uint8)
    values[1:, :, :3] = 0
    hole = hole_from_file(save(tmp_path / "mask.png", values), (4, 5))
    assert hole[0].all()
    assert not hole[1:].any()


def test_the_error_for_a_mask_of_ones_names_its_brightest_value(tmp_path):
    path = save(tmp_path / "mask.png", np.eye(4, dtype=np.uint8))
    with pytest.raises(InputError, match=r"mask\.png.* no hole.*128.* 1$"):
        hole_from_file(path, (4, 4))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((21, 30), np.uint8), r"mask\.png.* no hole"),
        (np.full((21, 30), 255, np.uint8), r"mask\.png.* all hole"),
        (np.eye(30, dtype=np.uint8) * 255, r"mask\.png.* 30x21.* 30x30"),
        (np.zeros((21, 30), np.uint16), r"mask\.png.* I;16"),
    ],
)
def test_mask_files_that_cannot_be_used_are_refused(tmp_path, values, message):
    path = save(tmp_path / "mask.png", values)
    with pytest.raises(InputError, match=message):
        hole_from_file(path, (21, 30))


def test_a_box_is_left_top_width_height():
    hole = hole_from_box((3, 1, 2, 4), (6, 8))
    rows, columns = np.nonzero(hole)
    assert (set(rows), set(columns)) == ({1, 2, 3, 4}, {3, 4})
    assert hole.sum() == 8
    assert hole_from_box((0, 0, 8, 5), (6, 8)).sum() == 40  # up to the border


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0, 0, 0, 4), "box.* 0x4"),
        ((0, 0, 4, -1), "box.* 4x-1"),
        ((-1, 0, 2, 2), "box.* 8x6.* -1, 0"),
        ((7, 0, 2, 2), "box.* 8x6.* 7, 0"),
        ((0, 5, 2, 2), "box.* 8x6.* 0, 5"),
        ((0, 0, 8, 6), "box.* all hole"),
    ],
)
def test_boxes_that_cannot_be_used_are_refused(box, message):
    with pytest.raises(InputError, match=message):
        hole_from_box(box, (6, 8))


def test_a_brush_seed_draws_the_training_strokes_of_that_seed():
    expected = free_form_mask(np.random.default_rng(7), 40, 50)
    np.testing.assert_array_equal(hole_from_brush(7, (40, 50)), expected)


def test_different_names_have_different_reproducible_holes():
    holes = [hole_from_brush(7, (40, 50), name) for name in ("a.png", "b.png", "a.png")]
    assert (holes[0] != holes[1]).any()
    np.testing.assert_array_equal(holes[0], holes[2])
    assert (holes[0] != hole_from_brush(8, (40, 50), "a.png")).any()


def test_the_hole_of_a_name_depends_on_its_bytes():
    names = [os.fsdecode(name) for name in (b"a\xff.png", b"a\xfe.png")]
    holes = [hole_from_brush(7, (40, 50), name) for name in names]
    assert (holes[0] != holes[1]).any()
    rng = np.random.default_rng((7, zlib.crc32("été.png".encode())))
    expected = free_form_mask(rng, 40, 50)
    np.testing.assert_array_equal(hole_from_brush(7, (40, 50), "été.png"), expected)


def test_brushes_that_cannot_be_used_are_refused():
    with pytest.raises(InputError, match=r"seed.* -1"):
        hole_from_brush(-1, (4, 4))
    with pytest.raises(InputError, match=r"brush.* all hole"):
        hole_from_brush(0, (1, 1))


def test_exactly_one_source_of_holes_is_required(tmp_path):
    with pytest.raises(InputError, match=r"mask.*box.*brush_seed.* none"):
        HoleChoice()
    with pytest.raises(InputError, match=r"mask.* got box and brush_seed"):
        HoleChoice(box=(0, 0, 1, 1), brush_seed=0)
    picture, size = tmp_path / "a.jpg", (40, 50)
    holes = [HoleChoice(brush_seed=0).hole(picture, size, named) for named in (False, True)]
    np.testing.assert_array_equal(holes[0], hole_from_brush(0, size))
    np.testing.assert_array_equal(holes[1], hole_from_brush(0, size, "a.jpg"))


def test_a_folder_of_masks_is_searched_by_stem(tmp_path):
    for name, row in (("a.png", 0), ("b.bmp", 1), ("c.png", 0), ("c.bmp", 0)):
        save(tmp_path / name, np.uint8(255) * (np.arange(3)[:, None] == row) * np.ones(4, np.uint8))
    choice = HoleChoice(mask=tmp_path)
    assert choice.hole(tmp_path / "photos/b.jpg", (3, 4), True)[1].all()
    with pytest.raises(InputError, match=r"d\.\*.* none"):
        choice.hole(tmp_path / "d.jpg", (3, 4), True)
    with pytest.raises(InputError, match=r"c\.\*.* c\.bmp.* c\.png"):
        choice.hole(tmp_path / "c.jpg", (3, 4), True)
