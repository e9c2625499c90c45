"""What a picture file says beside its pixels: damage there must not cost the picture."""

import io
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from PIL import PngImagePlugin

_PNG = b"\x89PNG\r\n\x1a\n"
# Of PNG's ancillary chunks, those that the pixels depend on.
_OF_PIXELS = {b"tRNS", b"acTL", b"fcTL", b"fdAT"}
# Texts that may hold an orientation. Others would only fill Pillow's `info`, under any name.
_TEXTS = {b"Raw profile type exif", b"XML:com.adobe.xmp"}
_NO_PROFILE = b"x\0\0"
_GREY = b"\0"

_JPEG = b"\xff\xd8\xff"
_JPEG_SCAN = 0xDA  # the marker after which there are no metadata
# The names of segments, and how long they must be for Pillow.
_JPEG_SEGMENTS = {b"JFIF": 7, b"Adobe": 7, b"ICC_PROFILE\0": 14}
_JPEG_HIDDEN = (b"Photoshop 3.0\0", b"MPF\0")

_TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_TIFF_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}  # of types of values
_TIFF_TEXTS = {269, 270, 271, 272, 282, 283, 285, 305, 306, 315, 316}  # and two resolutions
_TIFF_OF_OTHERS = 700  # from XMP on, no tag describes pixels

_AVIF_BRANDS = {b"avif", b"avis", b"mif1", b"msf1"}
_EXIF_ITEM = re.compile(rb"(infe\x02.{7}|infe\x03.{9})Exif", re.DOTALL)


def without_fragile_metadata(file: BinaryIO) -> BinaryIO:
    """Leaves out metadata for which Pillow would refuse a picture.

    Of a PNG stay the chunks that its pixels depend on, and what can be read of its colour profile,
    EXIF and XMP. A profile that cannot be read becomes an empty one. Of a JPEG segments are hidden
    that are cut off, Photoshop's, and the index of further pictures, such as a depth or gain map.
    Of a TIFF texts, resolution, XMP and the like are emptied where they lie beyond the file's end:
    there Pillow would stop reading tags. Of an AVIF the EXIF is left out, which says nothing of its
    orientation: the file's own properties do.

    Args:
        file: any file, read from its start.

    Returns:
        ``file`` itself, or a copy in memory.
    """
    file.seek(0)
    head = file.read(12)
    file.seek(0)
    if head.startswith(_PNG):
        return io.BytesIO(b"".join(_png_parts(memoryview(file.read()))))
    if head[4:8] == b"ftyp" and head[8:12] in _AVIF_BRANDS:
        return io.BytesIO(_without_exif_item(file.read()))
    if head.startswith(_JPEG):
        return _with_zeros(file, _segments_to_hide(file))
    if order := _TIFF_ORDERS.get(head[:4]):
        return _with_zeros(file, _entries_beyond_end(file, order))
    return file


def _png_parts(data: memoryview) -> Iterator[bytes | memoryview]:
    yield data[: len(_PNG)]
    start, kind, levels = len(_PNG), b"", 256
    while start + 8 <= len(data) and kind != b"IEND":
        kind = bytes(data[start + 4 : start + 8])
        end = start + 12 + int.from_bytes(data[start : start + 4])
        content = data[start + 8 : end - 4]
        if kind == b"IHDR" and content[9:10] == _GREY:
            levels = 2 ** content[8]
        if kind == b"tRNS" and levels in {4, 16} and len(content) == 2:
            # Pillow makes these greys 8 bits deep, but not the one that is transparent.
            yield _chunk(kind, (content[1] * 255 // (levels - 1)).to_bytes(2))
        elif _is_critical(kind) or kind in _OF_PIXELS or _is_sound(kind, data[start + 4 : end]):
            yield data[start:end]
        elif kind == b"iCCP":
            yield _chunk(kind, _NO_PROFILE)
        start = end


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return len(content).to_bytes(4) + kind + content + checksum.to_bytes(4)


def _is_critical(kind: bytes) -> bool:
    return not kind[0] & 0x20


def _is_sound(kind: bytes, chunk: memoryview) -> bool:
    """Whether Pillow reads a chunk of metadata, which is kind, content and checksum."""
    if kind not in {b"eXIf", b"iCCP", b"tEXt", b"zTXt", b"iTXt"}:
        return False
    if len(chunk) < 8 or zlib.crc32(chunk[:-4]) != int.from_bytes(chunk[-4:]):
        return False
    keyword, _, rest = bytes(chunk[4:-4]).partition(b"\0")
    if kind in {b"tEXt", b"zTXt", b"iTXt"} and keyword not in _TEXTS:
        return False
    if kind in {b"iCCP", b"zTXt"}:
        return rest[:1] == b"\0" and _inflates(rest[1:])
    if kind == b"iTXt" and rest[:1] != b"\0":
        return _inflates(rest[2:].split(b"\0", 2)[-1])
    return True


def _inflates(compressed: bytes) -> bool:
    """Whether compressed data are whole enough, and no larger than Pillow takes them."""
    stream = zlib.decompressobj()
    try:
        stream.decompress(compressed, PngImagePlugin.MAX_TEXT_CHUNK)
    except zlib.error:
        return False
    return not stream.unconsumed_tail


def _segments_to_hide(file: BinaryIO) -> list[int]:
    """Where the names stand of a JPEG's segments of metadata that are to be hidden."""
    found: list[int] = []
    place = 2
    while True:
        file.seek(place)
        head = file.read(4 + max(_JPEG_SEGMENTS.values()))
        if len(head) < 4 or head[0] != 0xFF or head[1] == _JPEG_SCAN:
            return found
        end = 2 + int.from_bytes(head[2:4])
        content = head[4:end]
        for name, shortest in _JPEG_SEGMENTS.items():
            if content.startswith(name) and len(content) < shortest:
                found.append(place + 4)
        if content.startswith(_JPEG_HIDDEN):
            found.append(place + 4)
        place += 1 if head[1] == 0xFF else end  # bytes of 255 may stand before a marker


def _entries_beyond_end(file: BinaryIO, order: str) -> list[int]:
    """Where a TIFF's first directory says how many values metadata have that lie beyond its end."""
    length = file.seek(0, io.SEEK_END)
    file.seek(4)
    start = int.from_bytes(file.read(4), "little" if order == "<" else "big")
    file.seek(start)
    count = int.from_bytes(file.read(2), "little" if order == "<" else "big")
    directory = file.read(12 * count)
    found = []
    for place in range(0, len(directory) - 11, 12):
        tag, kind, number, offset = struct.unpack_from(f"{order}HHII", directory, place)
        size = number * _TIFF_SIZES.get(kind, 1)
        if (tag in _TIFF_TEXTS or tag >= _TIFF_OF_OTHERS) and size > 4 and offset + size > length:
            found.append(start + 2 + place + 4)
    return found


def _with_zeros(file: BinaryIO, places: Sequence[int]) -> BinaryIO:
    """The file, or a copy of it with four zeros at each of the places."""
    if not places:
        return file
    file.seek(0)
    data = bytearray(file.read())
    for place in places:
        data[place : place + 4] = bytes(4)
    return io.BytesIO(data)


def _without_exif_item(data: bytes) -> bytes:
    start = 0
    while start + 8 <= len(data):
        size = int.from_bytes(data[start : start + 4])
        if data[start + 4 : start + 8] == b"meta":
            meta = _EXIF_ITEM.sub(rb"\1skip", data[start : start + size])
            return data[:start] + meta + data[start + size :]
        start += max(8, size)
    return data
