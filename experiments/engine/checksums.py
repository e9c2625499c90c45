"""Checksums of the files of a folder, to detect files that were altered later."""

import zlib
from pathlib import Path

from experiments.engine.files import write_atomically
from experiments.engine.json_files import read_json, write_json
from experiments.engine.text import shown

NAME = "checksums.json"


class DamagedError(ValueError):
    """A file is missing, truncated or altered."""


def write_checksums(folder: Path) -> None:
    """Writes the size and CRC-32 of every file below ``folder`` to a file in it, atomically."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != NAME)
    write_json(folder / NAME, {str(path.relative_to(folder)): _summary(path) for path in files})


def add_file(folder: Path, name: str, content: bytes) -> None:
    """Writes a file atomically, and adds it to the checksums without changing other entries.

    Args:
        folder: folder of the checksums; if it has none, a list with only this file is written.
        name: path of the file, relative to ``folder``.
        content: content of the file.

    Raises:
        DamagedError: the checksums cannot be read; nothing is written in this case.
    """
    path = folder / NAME
    known = _read(path) if path.exists() else {}
    write_atomically(folder / name, lambda file: file.write(content))
    write_json(path, {**known, name: _summary(folder / name)})


def verify_checksums(folder: Path) -> None:
    """Compares the files of ``folder`` with their checksums, if it has any.

    Raises:
        DamagedError: a file differs, or the checksums cannot be read.
    """
    path = folder / NAME
    if not path.exists():
        return
    for name, summary in _read(path).items():
        if not (folder / name).is_file():
            raise DamagedError(f"{name} is missing")
        found = _summary(folder / name)
        if found != summary:
            what = "bytes" if found["bytes"] != summary["bytes"] else "crc32"
            raise DamagedError(f"{name} has {what} {found[what]}, expected {summary[what]}")


def _read(path: Path) -> dict[str, dict[str, int]]:
    try:
        known = read_json(path)
    except ValueError as error:
        raise DamagedError(f"{NAME} cannot be read: {error}") from error
    if not isinstance(known, dict):
        raise DamagedError(f"{NAME} must have checksums by name, got {shown(known)}")
    for name, summary in known.items():
        if not isinstance(summary, dict) or summary.keys() != {"bytes", "crc32"}:
            raise DamagedError(f"{NAME} must have bytes and crc32 of {name}, got {shown(summary)}")
    return known


def _summary(path: Path) -> dict[str, int]:
    checksum, size = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            checksum, size = zlib.crc32(chunk, checksum), size + len(chunk)
    return {"bytes": size, "crc32": checksum}
