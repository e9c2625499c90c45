"""Picture files as bytes, written by Pillow or according to their specification."""

import io
import struct
import zlib

from PIL import Image

from experiments.data.pictures import open_picture


def encode(image, format_, **options):
    encoded = io.BytesIO()
    image.save(encoded, format_, **options)
    return encoded.getvalue()


def read(encoded, **options):
    return open_picture(io.BytesIO(encoded), "image x", **options)


def png(colour_type, depth, rows, *chunks, after=()):
    """A PNG file with chunks before and after its pixels."""
    header = struct.pack(">IIBBBBB", 2, 2, depth, colour_type, 0, 0, 0)
    pairs = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in pairs)


def chunk(kind, data):
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def exif(*entries):
    """EXIF of one directory; an entry is tag, type, count and 4 bytes of value or offset."""
    directory = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)


def with_orientation(value, *entries):
    return exif(*entries, (0x0112, 3, 1, struct.pack("<HH", value, 0)))


def pnm(kind, maximum, samples):
    """A PPM or PGM file of one row, from the samples of its pixels."""
    samples = [*samples]
    width = len(samples) // (3 if kind in {"P3", "P6"} else 1)
    head = f"{kind}\n{width} 1\n{maximum}\n".encode()
    if kind in {"P2", "P3"}:
        return head + " ".join(map(str, samples)).encode()
    return head + struct.pack(f">{len(samples)}{'B' if maximum < 256 else 'H'}", *samples)


def bmp(bits, masks, row):
    """A BMP file of one row; without masks its compression is BI_RGB."""
    fields = (40, 2, 1, 1, bits, 3 if masks else 0, len(row), 0, 0, 0, 0)
    header = struct.pack("<IiiHHIIiiII", *fields) + struct.pack(f"<{len(masks)}I", *masks)
    start = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", start + len(row), 0, 0, start) + header + row


def tiff(tags, data, order="<"):
    """A TIFF file of one strip; the value of a tag is one or several 16-bit numbers."""
    tags = {**tags, 273: 0, 279: len(data)}
    start = 8 + 2 + 12 * len(tags) + 4
    entries, further = b"", b""
    for tag, value in sorted(tags.items()):
        values = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"{order}{len(values)}H", *values)
        if tag == 273:
            place = len(entries)
            packed = bytes(2)
        if len(packed) > 4:
            packed, further = struct.pack(f"{order}I", start + len(further)), further + packed
        entries += struct.pack(f"{order}HHI", tag, 3, len(values)) + packed.ljust(4, b"\0")
    strip = struct.pack(f"{order}H", start + len(further))
    entries = entries[: place + 8] + strip + entries[place + 10 :]
    head = b"II*\0" if order == "<" else b"MM\0*"
    head += struct.pack(f"{order}IH", 8, len(tags))
    return head + entries + bytes(4) + further + data


def halves():
    """A picture whose orientation can be recognised after compression and rotation."""
    image = Image.new("RGB", (64, 32))
    image.paste((255, 255, 255), (40, 0, 64, 32))
    return image
