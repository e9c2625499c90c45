import base64
import struct

import numpy as np
import pytest
from PIL import Image

from experiments.classification.images import decode_image
from experiments.data.pictures import to_rgb
from experiments.data.records import RecordError
from tests.experiments.data.picture_files import bmp, encode, png, pnm, read, tiff

GREY, RGB = {256: 2, 257: 1, 262: 1}, {256: 2, 257: 1, 262: 2, 277: 3}
MASKS_565 = (0xF800, 0x7E0, 0x1F)
CMYK = {256: 2, 257: 1, 262: 5, 277: 4}
# From libavif and OpenJPEG: 4x4 pixels of 10 and of 12 bits, which Pillow cannot write.
AVIF_10 = base64.b64decode(
    "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUEAAADrbWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAA"
    "AAAAAAAAAAAAAAAOcGl0bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAETAAAAEwAAAChpaW5mAAAAAAABAAAA"
    "GmluZmUCAAAAAAEAAGF2MDFDb2xvcgAAAABqaXBycAAAAEtpcGNvAAAAFGlzcGUAAAAAAAAABAAAAAQAAAAQcGl4aQAA"
    "AAADCgoKAAAADGF2MUOBIEAAAAAAE2NvbHJuY2x4AAIAAgAAgAAAABdpcG1hAAAAAAAAAAEAAQQBAoMEAAAAG21kYXQS"
    "AAoIOAR9jAgIAkAyBRAAAAtA"
)
AVIF_12 = base64.b64decode(
    "AAAAHGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZgAAAOttZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAA"
    "AAAAAAAAAA5waXRtAAAAAAABAAAAHmlsb2MAAAAARAAAAQABAAAAAQAAAQ8AAAAkAAAAKGlpbmYAAAAAAAEAAAAaaW5m"
    "ZQIAAAAAAQAAYXYwMUNvbG9yAAAAAGppcHJwAAAAS2lwY28AAAAUaXNwZQAAAAAAAAAEAAAABAAAABBwaXhpAAAAAAMM"
    "DAwAAAAMYXYxQ4FAYAAAAAATY29scm5jbHgAAgACAACAAAAAF2lwbWEAAAAAAAAAAQABBAECgwQAAAAsbWRhdBIACghY"
    "BH2NAgIAiDIWEAAAAA/6PbxVZAx6jGlfncqEVDu7kA=="
)
JP2_12 = base64.b64decode(
    "AAAADGpQICANCocKAAAAFGZ0eXBqcDIgAAAAAGpwMiAAAAAtanAyaAAAABZpaGRyAAAABAAAAAQAAwsHAAAAAAAPY29s"
    "cgEAAAAAABAAAACPanAyY/9P/1EALwAAAAAABAAAAAQAAAAAAAAAAAAAAAQAAAAEAAAAAAAAAAAAAwsBAQsBAQsBAf9S"
    "AAwAAAABAQAEBAAB/1wABEBg/2QAJQABQ3JlYXRlZCBieSBPcGVuSlBFRyB2ZXJzaW9uIDIuNS40/5AACgAAAAAAFwAB"
    "/5PP5BARUFPHgID/2Q=="
)


def jpeg(bits):
    """Returns a JPEG with another bit depth in the header of its frame."""
    encoded = encode(Image.new("RGB", (8, 8)), "JPEG")
    start = encoded.index(b"\xff\xc0\0\x11\x08") + 4
    return encoded[:start] + bytes([bits]) + encoded[start + 1 :]


def j2k(bits):
    """Returns a JPEG 2000 codestream with another bit depth, without a file format around it."""
    encoded = encode(Image.new("RGB", (8, 8)), "JPEG2000", no_jp2=True)
    depth = bytes([bits - 1])
    return encoded.replace(b"\7\1\1" * 3, (depth + b"\1\1") * 3)


def cr2(encoded):
    """Returns the start of a Canon raw file: a TIFF with a mark before the first directory."""
    return encoded[:4] + struct.pack("<I", 16) + b"CR\2\0" + bytes(4) + encoded[8:]


TAKEN = {
    "png-grey-1": png(0, 1, b"\0\x80" * 2),
    "png-grey-2": png(0, 2, b"\0\x80" * 2),
    "png-grey-4": png(0, 4, b"\0\x80" * 2),
    "png-grey-8": png(0, 8, b"\0\1\2" * 2),
    "png-palette-4": png(3, 4, b"\0\x10" * 2, (b"PLTE", bytes(range(12)))),
    "png-palette-8": png(3, 8, b"\0\1\2" * 2, (b"PLTE", bytes(range(12)))),
    "png-grey-alpha-8": png(4, 8, (b"\0" + bytes(4)) * 2),
    "png-rgba-8": png(6, 8, (b"\0" + bytes(8)) * 2),
    "jpeg-8": jpeg(8),
    "j2k-8": j2k(8),
    "pgm-1": pnm("P5", 1, [0, 1]),
    "pgm-100": pnm("P5", 100, [0, 50]),
    "pgm-255": pnm("P5", 255, [0, 50]),
    "ppm-100": pnm("P6", 100, range(6)),
    "ppm-255": pnm("P6", 255, range(6)),
    "ppm-plain-100": pnm("P3", 100, range(6)),
    "pgm-plain-255": pnm("P2", 255, range(6)),
    "bmp-555": bmp(16, (), bytes(range(4))),
    "bmp-565": bmp(16, MASKS_565, bytes(range(4))),
    "bmp-24": bmp(24, (), bytes(range(8))),
    "bmp-32": bmp(32, (), bytes(range(8))),
    "tiff-grey-1": tiff({**GREY, 258: 1}, b"\x80"),
    "tiff-grey-4": tiff({**GREY, 258: 4}, b"\x80"),
    "tiff-grey-8": tiff({**GREY, 258: 8}, bytes(2)),
    "tiff-rgb-8": tiff({**RGB, 258: (8, 8, 8)}, bytes(range(6))),
    "tiff-cmyk-8": tiff({**CMYK, 258: (8, 8, 8, 8)}, bytes(range(8))),
    "avif-8": encode(Image.new("RGB", (8, 8)), "AVIF"),
    "webp": encode(Image.new("RGB", (8, 8)), "WEBP"),
    "gif": encode(Image.new("RGB", (8, 8)), "GIF"),
}
REFUSED = {
    "png-grey-16": (png(0, 16, (b"\0" + bytes(4)) * 2), r"I;16$"),
    "png-rgb-16": (png(2, 16, (b"\0" + bytes(12)) * 2), r"8 bits.* 16$"),
    "png-grey-alpha-16": (png(4, 16, (b"\0" + bytes(8)) * 2), r"8 bits.* 16$"),
    "png-rgba-16": (png(6, 16, (b"\0" + bytes(16)) * 2), r"8 bits.* 16$"),
    "jpeg-12": (jpeg(12), r"12-bit"),
    "j2k-12": (j2k(12), r"8 bits.* 12$"),
    "jp2-12": (JP2_12, r"8 bits.* 12$"),
    "jp2-grey-16": (encode(Image.new("I;16", (8, 8)), "JPEG2000"), r"I;16$"),
    "pgm-256": (pnm("P5", 256, [0, 1]), r"mode I$"),
    "pgm-65535": (pnm("P5", 65535, [0, 1]), r"mode I$"),
    "pgm-plain-1023": (pnm("P2", 1023, [0, 1]), r"mode I$"),
    "ppm-256": (pnm("P6", 256, range(6)), r"8 bits.* 9$"),
    "ppm-1023": (pnm("P6", 1023, range(6)), r"8 bits.* 10$"),
    "ppm-65535": (pnm("P6", 65535, range(6)), r"8 bits.* 16$"),
    "ppm-plain-65535": (pnm("P3", 65535, range(6)), r"8 bits.* 16$"),
    "pfm": (b"Pf\n1 1\n-1.0\n" + bytes(4), r"mode F$"),
    "bmp-10": (bmp(32, (0x3FF00000, 0xFFC00, 0x3FF), bytes(8)), r"bitfields"),
    "tiff-grey-16": (tiff({**GREY, 258: 16}, bytes(4)), r"I;16$"),
    "tiff-grey-float": (encode(Image.new("F", (2, 1)), "TIFF"), r"mode F$"),
    "tiff-grey-signed": (tiff({**GREY, 258: 8, 339: 2}, bytes(2)), r"unsigned"),
    "tiff-rgb-16": (tiff({**RGB, 258: (16, 16, 16)}, bytes(12)), r"8 bits.* 16$"),
    "tiff-rgb-16-big": (tiff({**RGB, 258: (16, 16, 16)}, bytes(12), ">"), r"8 bits.* 16$"),
    "tiff-rgb-16-planar": (tiff({**RGB, 258: (16, 16, 16), 284: 2}, bytes(12)), r"8 bits.* 16$"),
    "tiff-rgb-16-lzw": (tiff({**RGB, 258: (16, 16, 16), 259: 5}, bytes(12)), r"8 bits.* 16$"),
    "tiff-cmyk-16": (tiff({**CMYK, 258: (16,) * 4}, bytes(16)), r"8 bits.* 16$"),
    "tiff-rgb-float": (tiff({**RGB, 258: (32,) * 3, 339: (3,) * 3}, bytes(24)), r"TIFF.* mode"),
    "tiff-thumbnail": (tiff({**RGB, 254: 1, 258: (8, 8, 8)}, bytes(6)), r"raw file"),
    "tiff-dng": (tiff({**RGB, 258: (8, 8, 8), 50706: 1}, bytes(6)), r"raw file"),
    "tiff-cr2": (cr2(tiff({**GREY, 258: 8}, bytes(2))), r"raw file"),
    "avif-10": (AVIF_10, r"8 bits.* 10$"),
    "avif-12": (AVIF_12, r"8 bits.* 12$"),
    "palette-without-colours": (png(3, 8, b"\0\1\2" * 2), r"palette"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_pictures_of_at_most_8_bits_a_channel_are_accepted(name):
    assert to_rgb(read(TAKEN[name])).mode == "RGB"


@pytest.mark.parametrize("name", REFUSED)
def test_pictures_of_more_bits_are_refused_by_name(name):
    encoded, message = REFUSED[name]
    with pytest.raises(ValueError, match=rf"^image x .*{message}"):
        read(encoded)


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (pnm("P5", 100, [0, 50, 100]), [[0], [128], [255]]),
        (pnm("P6", 100, [0, 50, 100]), [[0, 128, 255]]),
        (pnm("P3", 1, [0, 1, 1]), [[0, 255, 255]]),
        (
            bmp(16, MASKS_565, struct.pack("<HH", 0xF800, 0x1F)),
            [[255, 0, 0], [0, 0, 255]],
        ),
        (bmp(16, (), struct.pack("<HH", 0x7C00, 0x1F)), [[255, 0, 0], [0, 0, 255]]),
    ],
)
def test_fewer_bits_fill_the_whole_range(encoded, expected):
    found = np.asarray(read(encoded)).reshape(-1, len(expected[0]))
    np.testing.assert_array_equal(found, expected)


def test_records_of_more_bits_are_unreadable():
    for name in ("png-rgb-16", "png-grey-16", "palette-without-colours"):
        encoded, message = REFUSED[name]
        with pytest.raises(RecordError, match=message):
            decode_image(encoded)
    for name in ("png-grey-2", "png-palette-4", "png-rgba-8"):
        assert decode_image(TAKEN[name]).mode == "RGB"
