"""Checksums of the files of a folder, by which files that were altered later are found."""

import json
import zlib
from pathlib import Path

from experiments.engine.files import write_json

NAME = "checksums.json"


class DamagedError(ValueError):
    """A file is missing, cut off or altered."""


def write_checksums(folder: Path) -> None:
    """Writes size and CRC-32 of every file below ``folder`` into a file there, atomically."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != NAME)
    write_json(folder / NAME, {str(path.relative_to(folder)): _summary(path) for path in files})


def add_checksum(folder: Path, name: str) -> None:
    """Adds one file to the checksums of ``folder``, atomically; the others stay as they are.

    Args:
        folder: without checksums, it gets those of this file alone.
        name: of the file, relative to ``folder``.
    """
    path = folder / NAME
    known = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, {**known, name: _summary(folder / name)})


def verify_checksums(folder: Path) -> None:
    """Compares the files of ``folder`` with their checksums; without checksums nothing is checked.

    Raises:
        DamagedError: one differs, or the checksums themselves cannot be read.
    """
    path = folder / NAME
    if not path.exists():
        return
    try:
        expected = json.loads(path.read_text()).items()
    except (ValueError, AttributeError) as error:
        raise DamagedError(f"{NAME} cannot be read: {error}") from error
    for name, summary in expected:
        if not (folder / name).is_file():
            raise DamagedError(f"{name} is missing")
        found = _summary(folder / name)
        if found != summary:
            what = "bytes" if found["bytes"] != summary["bytes"] else "crc32"
            raise DamagedError(f"{name} has {what} {found[what]}, expected {summary[what]}")


def _summary(path: Path) -> dict[str, int]:
    checksum, size = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            checksum, size = zlib.crc32(chunk, checksum), size + len(chunk)
    return {"bytes": size, "crc32": checksum}
