"""Removes damaged metadata from picture files, so that their pixels can still be read."""

import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from PIL import PngImagePlugin

_PNG = b"\x89PNG\r\n\x1a\n"
# The ancillary chunks of PNG on which the pixels depend.
_PIXEL_CHUNKS = {b"tRNS", b"fcTL", b"fdAT"}
# Lengths below which Pillow fails, in bytes.
_MIN_LENGTHS = {b"acTL": 8, b"pHYs": 9, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1}
_NO_PROFILE = b"x\0\0"

_JPEG = b"\xff\xd8\xff"
_JPEG_SCAN = 0xDA  # the marker of the pixels, after all metadata
_PHOTOSHOP = b"Photoshop 3.0\0"


class _Edit(NamedTuple):
    """A replacement of the bytes of a file from ``start`` to ``end``."""

    start: int
    end: int
    new: bytes


def without_fragile_metadata(file: BinaryIO) -> BinaryIO:
    """Removes metadata because of which Pillow would reject a PNG or a JPEG.

    In a PNG these are chunks on which the pixels do not depend, if their checksum is wrong, they
    are too short, or their text is too large when decompressed. An unreadable colour profile is
    replaced by an empty one. In a JPEG they are the blocks of Photoshop, which may be truncated.

    Args:
        file: any open file, at its start.

    Returns:
        ``file`` itself, or a changed copy in memory.
    """
    file.seek(0)
    head = file.read(len(_PNG))
    if head == _PNG:
        edits = [*_png_edits(file)]
    elif head.startswith(_JPEG):
        edits = [*_jpeg_edits(file)]
    else:
        edits = []
    file.seek(0)
    if not edits:
        return file
    data = file.read()
    parts, end = [], 0
    for edit in edits:
        parts += [data[end : edit.start], edit.new]
        end = edit.end
    return io.BytesIO(b"".join([*parts, data[end:]]))


def _png_edits(file: BinaryIO) -> Iterator[_Edit]:
    start = len(_PNG)
    while len(head := _at(file, start, 8)) == 8:
        kind, end = head[4:], start + 12 + int.from_bytes(head[:4])
        if kind == b"IEND":
            return
        is_critical = not kind[0] & 0x20
        if not is_critical and kind not in _PIXEL_CHUNKS:
            chunk = _at(file, start + 4, end - start - 4)  # kind, content and checksum
            if not _is_sound(kind, chunk):
                yield _Edit(start, end, _chunk(kind, _NO_PROFILE) if kind == b"iCCP" else b"")
        start = end


def _at(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return len(content).to_bytes(4) + kind + content + checksum.to_bytes(4)


def _is_sound(kind: bytes, chunk: bytes) -> bool:
    """Whether Pillow can read a chunk of metadata (kind, content and checksum)."""
    if len(chunk) < 8 + _MIN_LENGTHS.get(kind, 0):
        return False
    if zlib.crc32(chunk[:-4]) != int.from_bytes(chunk[-4:]):
        return False
    keyword, _, rest = chunk[4:-4].partition(b"\0")
    # Pillow makes an entry of `info` from a text, even under a name that it uses itself.
    if kind in {b"tEXt", b"zTXt", b"iTXt"} and keyword.islower():
        return False
    if kind in {b"iCCP", b"zTXt"}:
        return rest[:1] == b"\0" and _inflates(rest[1:])
    if kind == b"iTXt" and rest[:1] != b"\0":
        return _inflates(rest[2:].split(b"\0", 2)[-1])
    return True


def _inflates(compressed: bytes) -> bool:
    """Whether data can be decompressed, to a size that Pillow accepts."""
    stream = zlib.decompressobj()
    try:
        stream.decompress(compressed, PngImagePlugin.MAX_TEXT_CHUNK)
    except zlib.error:
        return False
    return not stream.unconsumed_tail


def _jpeg_edits(file: BinaryIO) -> Iterator[_Edit]:
    offset = 2
    while True:
        head = _at(file, offset, 4 + len(_PHOTOSHOP))
        if len(head) < 4 or head[0] != 0xFF or head[1] == _JPEG_SCAN:
            return
        if head[1] == 0xFF:  # padding before a marker, of any length
            offset += 1
            continue
        end = offset + 2 + int.from_bytes(head[2:4])
        if head[4:] == _PHOTOSHOP:
            yield _Edit(offset, end, b"")
        offset = end
