import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from experiments.data.errors import DataError
from experiments.data.label_files import LabelFormat, encode_label, read_label
from tests.experiments.data.picture_files import png

GREY, COLOURS, PALETTE, GREY_ALPHA = 0, 2, 3, 4


def packed(values, depth):
    """The rows of a PNG of 2 x 2 pixels, each after its filter type 0."""
    if depth == 8:
        return b"".join(bytes([0, *row]) for row in values)
    return b"".join(bytes([0, (left << depth | right) << 8 - 2 * depth]) for left, right in values)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("colour_type", [GREY, PALETTE])
def test_stored_numbers_are_read_for_all_depths(tmp_path, depth, colour_type):
    last = 2**depth - 1
    values = [[last, 0], [min(1, last), last // 2]]
    chunks = [(b"PLTE", bytes(range(256)) * 3)] if colour_type == PALETTE else []
    chunks = [(kind, data[: 3 * 2**depth]) for kind, data in chunks]
    path = tmp_path / "a.png"
    path.write_bytes(png(colour_type, depth, packed(values, depth), *chunks))
    found = read_label(path, LabelFormat(255, 255))
    np.testing.assert_array_equal(found, values)


def test_transparent_greys_are_numbers_too(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(GREY, 4, packed([[15, 3], [0, 1]], 4), (b"tRNS", b"\0\3")))
    np.testing.assert_array_equal(read_label(path, LabelFormat(16)), [[15, 3], [0, 1]])


@given(st.integers(0, 2**32), st.integers(1, 255), st.sampled_from([0, 255]))
def test_classes_get_numbers_from_zero_on_and_other_values_are_refused(seed, classes, unlabelled):
    rng = np.random.default_rng(seed)
    first = 1 if unlabelled == 0 else 0
    allowed = [*range(first, first + classes), unlabelled]
    values = rng.choice(allowed, size=rng.integers(1, 9, size=2)).astype(np.uint8)
    path = MemoryPath(values)
    found = read_label(path, LabelFormat(classes, unlabelled))
    assert found.dtype == np.uint8
    for value, number in zip(values.flat, found.flat, strict=True):
        assert number == (255 if value == unlabelled else value - first)
    if wrong := sorted(set(range(256)) - set(allowed)):
        row, column = (int(rng.integers(length)) for length in values.shape)
        values[row, column] = rng.choice(wrong)
        message = rf"a\.png.* {first}\.\.{first + classes - 1} .* {unlabelled} .* got "
        message += rf"{values[row, column]} in row {row}, column {column}\b"
        with pytest.raises(DataError, match=message):
            read_label(MemoryPath(values), LabelFormat(classes, unlabelled))


class MemoryPath:
    """A path whose file is in memory."""

    def __init__(self, values):
        encoded = io.BytesIO()
        Image.fromarray(values).save(encoded, "PNG")
        self.read_bytes = encoded.getvalue

    def __str__(self):
        return "a.png"


@pytest.mark.parametrize(
    ("colour_type", "depth", "row", "message"),
    [
        (GREY, 16, b"\0\0\1\0\1", r"a\.png.* 8 bits.* I;16$"),
        (COLOURS, 8, bytes(7), r"a\.png.* grey or .*palette.* RGB: see b"),
        (GREY_ALPHA, 8, bytes(5), r"a\.png.* grey or .*palette.* LA: see b"),
    ],
)
def test_other_kinds_of_png_are_refused(tmp_path, colour_type, depth, row, message):
    path = tmp_path / "a.png"
    path.write_bytes(png(colour_type, depth, row * 2))
    with pytest.raises(DataError, match=message):
        read_label(path, LabelFormat(3, hint=": see b"))


def test_palettes_can_be_refused(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(PALETTE, 8, packed([[0, 0], [0, 0]], 8), (b"PLTE", bytes(3))))
    with pytest.raises(DataError, match=r"a\.png must be grey, .* P$"):
        read_label(path, LabelFormat(3, palettes=False))


def test_other_formats_are_refused(tmp_path):
    path = tmp_path / "a.png"
    Image.new("L", (3, 2)).save(path, "BMP")
    with pytest.raises(DataError, match=r"a\.png.* PNG"):
        read_label(path, LabelFormat(3))


def test_an_encoded_label_is_a_grey_png_with_the_same_numbers():
    label = np.array([[0, 255, 7], [254, 1, 2]], np.uint8)
    with Image.open(io.BytesIO(encode_label(label))) as image:
        assert (image.format, image.mode) == ("PNG", "L")
        np.testing.assert_array_equal(np.asarray(image), label)
