"""Reads small text files that describe a dataset."""

from pathlib import Path

from experiments.data.errors import DataError


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a text file, without empty lines at its end.

    Args:
        path: path of a file in UTF-8, with or without a byte order mark.

    Raises:
        DataError: the file cannot be read, or is not in UTF-8.
    """
    try:
        return path.read_text("utf-8-sig").rstrip().splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} must be text in UTF-8, got other bytes from byte {error.start} on"
        ) from error
