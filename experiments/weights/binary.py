"""Reads binary files piece by piece, within limits."""

import dataclasses
from io import BufferedReader

import numpy as np


class FormatError(ValueError):
    """A file is damaged, unsafe to read or of another kind.

    The message continues a sentence that begins with the name of the file.
    """


@dataclasses.dataclass(slots=True)  # not frozen, which takes three times as long to create
class Span:
    """A range of bytes in a file.

    Args:
        start: position of the first byte.
        length: number of bytes.
    """

    start: int
    length: int


class Cursor:
    """Reads a part of a file from its beginning to its end.

    Args:
        file: file that is open for reading.
        span: part of the file that is read.
    """

    def __init__(self, file: BufferedReader, span: Span):
        self._file = file
        self._end = span.start + span.length
        self.position = span.start
        file.seek(span.start)

    @property
    def left(self) -> int:
        """Number of bytes that are left."""
        return self._end - self.position

    def skip(self, length: int) -> Span:
        """Returns the next bytes as a range, without reading them.

        Args:
            length: number of bytes.

        Raises:
            FormatError: fewer bytes are left.
        """
        if length > self._end - self.position:
            raise self._too_short(length)
        span = Span(self.position, length)
        self.position += length
        self._file.seek(self.position)
        return span

    def read(self, length: int) -> bytes:
        """Reads the next bytes.

        Args:
            length: number of bytes.

        Raises:
            FormatError: fewer bytes are left, or the file became shorter.
        """
        if length > self._end - self.position:
            raise self._too_short(length)
        self.position += length
        data = self._file.read(length)
        if len(data) < length:
            raise FormatError("became shorter while it was read")
        return data

    def line(self, longest: int) -> bytes:
        """Reads up to the next end of line, which is left out of the result.

        Args:
            longest: largest number of bytes in the line.

        Raises:
            FormatError: the line is longer, or does not end.
        """
        data = self._file.readline(min(longest + 1, self.left))
        self.position += len(data)
        if not data.endswith(b"\n"):
            raise FormatError("is damaged: a line in its pickle does not end")
        return data[:-1]

    def _too_short(self, length: int) -> FormatError:
        return FormatError(
            f"is damaged: {length:,} bytes are expected at byte {self.position:,}, and only "
            f"{self.left:,} are left"
        )


def read_bytes(file: BufferedReader, span: Span) -> np.ndarray:
    """Reads a range of a file into a new array ``[span.length]`` of uint8.

    Args:
        file: file that is open for reading.
        span: range of bytes.

    Raises:
        FormatError: the file became shorter.
    """
    data = np.empty(span.length, np.uint8)
    rest = memoryview(data)
    file.seek(span.start)
    while rest:
        count = file.readinto(rest)
        if not count:
            raise FormatError("became shorter while it was read")
        rest = rest[count:]
    return data
