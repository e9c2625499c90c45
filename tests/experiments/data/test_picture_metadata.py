import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from experiments.data.pictures import is_opaque, picture_size, to_rgb
from tests.experiments.data.picture_files import (
    encode,
    exif,
    halves,
    png,
    read,
    tiff,
    with_orientation,
)

ROWS = (b"\0" + bytes(range(6))) * 2
BOMB = zlib.compress(bytes(8 * 2**20))
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
PIXELS = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
BEYOND = (0x010F, 2, 1000, struct.pack("<I", 5000))  # a maker's name beyond the end of the file


def turns(image):
    """Returns by how many quarter turns to the left the picture of two halves is rotated."""
    found = np.asarray(image.convert("L")) > 127
    stored = np.asarray(halves().convert("L")) > 127
    (number,) = (n for n in range(4) if np.array_equal(found, np.rot90(stored, n)))
    return number


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("content", [b"junkjunkjunk", b"II*", b"", exif(BEYOND)])
def test_invalid_exif_is_ignored(format_, content):
    whole = exif((0x0128, 3, 1, struct.pack("<HH", 2, 0)))
    encoded = encode(halves(), format_, exif=b"Exif\0\0" + whole)
    assert whole in encoded
    damaged = encoded.replace(whole, content.ljust(len(whole), b"\0")[: len(whole)])
    if format_ == "PNG":
        damaged = encode(halves(), "PNG", exif=b"Exif\0\0" + content)
    assert turns(read(damaged)) == 0


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    "broken",
    [
        BEYOND,
        (0x011A, 5, 1, struct.pack("<I", 5000)),
        (0x8769, 2, 4, b"text"),  # an invalid pointer
        (0x0128, 99, 1, bytes(4)),
        (
            0x0110,
            4,
            1,
            struct.pack("<I", 7),
        ),  # a number in place of a name, which cannot be written
    ],
)
def test_an_orientation_among_damaged_tags_is_followed(format_, broken):
    content = b"Exif\0\0" + with_orientation(6, broken)
    assert turns(read(encode(halves(), format_, exif=content))) == 3


@pytest.mark.parametrize(
    "entry",
    [
        (0x0112, 3, 1, struct.pack("<HH", 0, 0)),
        (0x0112, 3, 1, struct.pack("<HH", 9, 0)),
        (0x0112, 3, 2, struct.pack("<HH", 6, 6)),
        (0x0112, 2, 2, b"6\0\0\0"),
        (0x0112, 11, 1, struct.pack("<f", 6)),
    ],
)
def test_an_invalid_orientation_is_ignored(entry):
    content = b"Exif\0\0" + exif(entry)
    assert turns(read(encode(halves(), "PNG", exif=content))) == 0


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_the_orientation_of_xmp_is_used_if_exif_has_none(format_):
    if format_ == "TIFF":
        options = [{"tiffinfo": {700: XMP}}]
    else:
        options = [{"xmp": XMP}, {"xmp": XMP, "exif": b"Exif\0\0junkjunk"}]
    if format_ == "PNG":
        encoded = encode(halves(), "PNG")
        text = b"XML:com.adobe.xmp\0\0\0\0\0" + XMP
        chunk = struct.pack(">I", len(text)) + b"iTXt" + text
        chunk += struct.pack(">I", zlib.crc32(b"iTXt" + text))
        assert turns(read(encoded[:33] + chunk + encoded[33:])) == 3
        return
    for each in options:
        assert turns(read(encode(halves(), format_, **each))) == 3
    if format_ != "TIFF":
        both = {"xmp": XMP, "exif": b"Exif\0\0" + with_orientation(8)}
        assert turns(read(encode(halves(), format_, **both))) == 1


@pytest.mark.parametrize("byte_order", "<>")
@pytest.mark.parametrize("doubled", [False, True])
def test_the_orientation_of_either_byte_order_and_of_texts_is_followed(byte_order, doubled):
    mark = {"<": b"II*\0", ">": b"MM\0*"}[byte_order]
    content = mark + struct.pack(f"{byte_order}IHHHIHH", 8, 1, 0x0112, 3, 1, 6, 0) + bytes(4)
    content = (1 + doubled) * b"Exif\0\0" + content
    assert turns(read(encode(halves(), "JPEG", exif=content))) == 3
    info = PngImagePlugin.PngInfo()
    lines = f"\nexif\n{len(content):8}\n{content[:20].hex()}\n{content[20:].hex()}\n"
    info.add_text("Raw profile type exif", lines, zip=doubled)
    assert turns(read(encode(halves(), "PNG", pnginfo=info))) == 3


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_opened_without_rotation(format_, orientation):
    content = Image.Exif()
    content[0x0112] = orientation
    encoded = encode(halves(), format_, exif=content)
    assert turns(read(encoded, upright=False)) == 0


def test_the_exif_is_unchanged():
    content = b"Exif\0\0" + with_orientation(6, BEYOND)
    assert read(encode(halves(), "JPEG", exif=content)).info["exif"] == content


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"eXIf", b"junkjunkjunk"),
        (b"zTXt", b"a\0\0" + BOMB),
        (b"zTXt", b"a\0\7?"),
        (b"iTXt", b"a\0\1\0\0\0" + BOMB),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
        (b"iCCP", b"a\0\0" + BOMB),
        (b"iCCP", b"a\0\7?"),
        (b"iCCP", b"a"),
        (b"iCCP", b""),
        (b"tEXt", b"Raw profile type exif\0\nexif\n4\nzzzz"),
        (b"tEXt", b"exif\0hello"),
        (b"tEXt", b"transparency\0hello"),
        (b"tEXt", b"xmp\0hello"),
        (b"tEXt", b"interlace\0hello"),
        (b"tEXt", b"bbox\0hello"),
        (b"acTL", b"a"),
        (b"pHYs", b"a"),
        (b"gAMA", b"a"),
        (b"cHRM", b"a"),
        (b"sRGB", b""),
    ],
)
def test_unreadable_chunks_of_png_are_ignored(place, kind, content):
    chunks = [(kind, content)]
    before, after = (chunks, []) if place == "before" else ([], chunks)
    image = read(png(2, 8, ROWS, *before, after=after))
    assert np.asarray(to_rgb(image)).ravel().tolist() == [*range(6)] * 2
    assert is_opaque(image)


@pytest.mark.parametrize(
    ("marker", "content"),
    [
        (0xE2, b"MPF\0II*\0\x08\0\0\0\1\0\2\xb0\7\0\x20\0\0\0\x1a\0\0\0"),
        (0xED, b"Photoshop 3.0\0" + b"8BIM\4\4"),
        (0xFE, b""),
    ],
)
def test_unreadable_segments_of_jpeg_are_ignored(marker, content):
    encoded = encode(halves(), "JPEG", exif=b"Exif\0\0" + with_orientation(6))
    segment = bytes([0xFF, 0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content
    assert turns(read(encoded[:2] + segment + encoded[2:])) == 3


def test_a_metadata_chunk_with_a_wrong_checksum_is_ignored():
    encoded = png(2, 8, ROWS, (b"tEXt", b"Comment\0hello"), (b"eXIf", with_orientation(6)))
    assert read(encoded.replace(b"hello", b"hullo")).size == (2, 2)
    broken = encoded.replace(with_orientation(6), with_orientation(8))
    np.testing.assert_array_equal(np.asarray(read(broken)), np.asarray(read(png(2, 8, ROWS))))


@pytest.mark.parametrize(
    ("colour_type", "rows", "content", "opaque"),
    [
        (3, b"\0\1\2" * 2, bytes(300), False),
        (3, b"\0\1\2" * 2, b"\xff" * 300 + b"\0", True),
        (3, b"\0\1\2" * 2, b"", True),
        (0, b"\0\1\2" * 2, b"\x7f\xff", True),
        (0, b"\0\1\2" * 2, b"\0\1", False),
        (2, ROWS, b"\1\1\1\1\1\1", True),
    ],
)
def test_odd_transparency_converts(colour_type, rows, content, opaque):
    image = read(png(colour_type, 8, rows, (b"PLTE", bytes(12)), (b"tRNS", content)))
    assert to_rgb(image).mode == "RGB"
    assert is_opaque(image) == opaque


@pytest.mark.parametrize(("depth", "rows"), [(1, b"\0\x40"), (2, b"\0\x10"), (4, b"\0\x01")])
def test_a_grey_of_few_bits_may_be_transparent(depth, rows):
    image = read(png(0, depth, rows * 2, (b"tRNS", b"\0\1")))
    alpha = np.asarray(image.convert("RGBA"))[..., 3]
    np.testing.assert_array_equal(alpha, [[255, 0]] * 2)
    assert not is_opaque(image)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("upright", [True, False])
def test_the_size_is_that_of_the_decoded_picture(format_, orientation, upright):
    content = Image.Exif()
    content[0x0112] = orientation
    encoded = encode(halves(), format_, exif=content)
    size = picture_size(io.BytesIO(encoded), "image x", upright=upright)
    assert size == read(encoded, upright=upright).size


@pytest.mark.parametrize("kind", [2, 3, 4, 5, 11, 12])
def test_xmp_of_tiff_that_is_not_text_is_ignored(kind):
    encoded = encode(halves(), "TIFF", tiffinfo={700: XMP})
    entry = encoded.index(struct.pack("<HHI", 700, 1, len(XMP)))
    damaged = bytearray(encoded)
    struct.pack_into("<HHI", damaged, entry, 700, kind, 2)
    assert turns(read(bytes(damaged))) == 0


@pytest.mark.parametrize("orientation", [1, 6, 8])
@pytest.mark.parametrize("options", [{}, {"xmp": XMP}])
def test_the_orientation_of_an_avif_is_in_its_properties(orientation, options):
    encoded = encode(halves(), "AVIF", exif=with_orientation(orientation), **options)
    assert turns(read(encoded)) == {1: 0, 6: 3, 8: 1}[orientation]
    assert turns(read(encoded, upright=False)) == 0


def test_an_unreadable_profile_is_empty_or_none():
    damaged = png(2, 8, ROWS, (b"iCCP", b"a\0\0" + BOMB))
    assert not read(damaged).info["icc_profile"]
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert read(encode(halves(), "PNG", icc_profile=profile)).info["icc_profile"] == profile
    number = tiff({256: 1, 257: 1, 258: 8, 262: 1, 34675: 7}, b"\1")
    assert read(number).info["icc_profile"] is None
