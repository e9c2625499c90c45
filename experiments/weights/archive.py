"""Finds the members of a ZIP archive in which nothing is compressed.

Python's ``zipfile`` keeps all that a directory lists before it checks anything, and ignores
members that overlap. This reader only accepts what ``torch.save`` writes.
"""

import struct
from io import BufferedReader

from experiments.engine.text import shown
from experiments.weights.binary import Cursor, FormatError, Span

_END = struct.Struct("<4s4H2LH")  # end of the directory
_LOCATOR = struct.Struct("<4sLQL")  # position of the end of a ZIP64 directory
_END64 = struct.Struct("<4sQ2H2L4Q")
_HEADER = struct.Struct("<4s6H3L5H2L")  # of a member, in the directory
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # of a member, before its content
_LONGEST_COMMENT = 2**16 - 1
# The names of 100,000 tensors: thirty times the checkpoint of a large detector with its optimiser.
_LARGEST_DIRECTORY = 2**24
_ENCRYPTED = 1  # bit in the flags of a member
_ZIP64 = 1  # identifier of an extra field with sizes of 64 bits


def members(file: BufferedReader, size: int) -> dict[str, Span]:
    """Returns where the content of each member of a ZIP archive is, by name.

    Args:
        file: archive that is open for reading.
        size: number of bytes of the archive.

    Raises:
        FormatError: the archive is damaged; or its members are compressed, encrypted, overlap or
            have the same name.
    """
    directory = _directory(file, size)
    headers = _headers(Cursor(file, directory), directory.length)
    found: dict[str, Span] = {}
    end = 0
    for start, name, length in sorted(headers):
        cursor = Cursor(file, Span(0, directory.start))
        cursor.skip(start)
        signature, *_, name_length, extra_length = _LOCAL_HEADER.unpack(
            cursor.read(_LOCAL_HEADER.size)
        )
        if signature != b"PK\3\4" or cursor.read(name_length) != name:
            raise FormatError(f"is damaged: no member {_shown(name)} begins at byte {start:,}")
        cursor.skip(extra_length)
        if start < end:
            raise FormatError(f"is damaged or unsafe: its member {_shown(name)} overlaps another")
        if _text(name) in found:
            raise FormatError(f"is damaged or unsafe: it has several members {_shown(name)}")
        found[_text(name)] = cursor.skip(length)
        end = cursor.position
    return found


def _directory(file: BufferedReader, size: int) -> Span:
    """Returns where the directory of an archive is."""
    length = min(size, _END.size + _LONGEST_COMMENT)
    tail = Span(size - length, length)
    text = Cursor(file, tail).read(tail.length)
    found = text.rfind(b"PK\5\6", 0, len(text) - _END.size + 4)
    if found < 0:
        raise FormatError("is damaged: it begins as a ZIP archive, and has no directory at its end")
    *_, length, start, _ = _END.unpack_from(text, found)
    end = tail.start + found
    if end >= _LOCATOR.size:
        locator = Cursor(file, Span(end - _LOCATOR.size, _LOCATOR.size)).read(_LOCATOR.size)
        signature, _, start64, _ = _LOCATOR.unpack(locator)
        if signature == b"PK\6\7":
            end -= _LOCATOR.size
            cursor = Cursor(file, Span(0, end))
            cursor.skip(start64)
            signature, *_, length, start = _END64.unpack(cursor.read(_END64.size))
            if signature != b"PK\6\6":
                raise FormatError("is damaged: the end of its ZIP64 directory is not where it says")
            end = start64
    if start + length > end:
        raise FormatError(
            f"is damaged: its directory of {length:,} bytes at byte {start:,} exceeds its end"
        )
    if length > _LARGEST_DIRECTORY:
        raise FormatError(
            f"is unsafe to read: its directory has {length:,} bytes, more than the "
            f"{_LARGEST_DIRECTORY:,} of 100,000 tensors"
        )
    return Span(start, length)


def _headers(cursor: Cursor, length: int) -> list[tuple[int, bytes, int]]:
    """Returns position, name and size of each member that a directory lists."""
    end = cursor.position + length
    headers = []
    while cursor.position < end:
        header = _HEADER.unpack(cursor.read(_HEADER.size))
        signature, _, _, flags, method, _, _, _, packed, size, *lengths, _, _, _, start = header
        name_length, extra_length, comment_length = lengths
        name = cursor.read(name_length)
        extra = cursor.read(extra_length)
        cursor.skip(comment_length)
        if signature != b"PK\1\2":
            raise FormatError("is damaged: its directory has an entry that describes no member")
        size, packed, start = _wide(extra, size, packed, start)
        if method or packed != size or flags & _ENCRYPTED:
            raise FormatError(
                f"has a compressed or encrypted member {_shown(name)}, which unpacks from "
                f"{packed:,} to {size:,} bytes: torch.save does not compress"
            )
        headers.append((start, name, size))
    return headers


def _wide(extra: bytes, *values: int) -> list[int]:
    """Replaces values that do not fit into 32 bits by those of the extra field for ZIP64."""
    position = 0
    wide = b""
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        position += 4
        if kind == _ZIP64:
            wide = extra[position : position + length]
        position += length
    result = []
    for value in values:
        if value == 2**32 - 1:
            if len(wide) < 8:
                raise FormatError("is damaged: the size or position of a member is missing")
            value, wide = int.from_bytes(wide[:8], "little"), wide[8:]
        result.append(value)
    return result


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _shown(name: bytes) -> str:
    return shown(_text(name))
