"""Files that are either whole or not there, and folders in which one process works at a time."""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from experiments.engine.errors import UserError, shown
from experiments.engine.names import printable

# Of file systems that have no locks, as some of clusters have none.
_UNLOCKABLE = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


class FolderError(UserError):
    """A folder that a command is to write to is none, or is read-only."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file so that a reader, also after a crash, finds the old content or the new.

    Its permissions are those of any new file: the process's umask decides.

    Args:
        path: the file; its folder is created.
        write: gets a binary file that is open for writing, in the folder of ``path``.

    Raises:
        OSError: the file cannot be written; nothing of it is left then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Short, because the name of ``path`` may already be as long as the file system allows.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    with temporary.open("xb") as file:
        try:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink()
            raise


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as indented JSON, atomically; NaN and infinity are refused."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def read_json(path: Path) -> Any:
    """Reads a JSON file; see :func:`parse_json`.

    Raises:
        OSError: the file cannot be read.
        ValueError: see :func:`parse_json`.
    """
    return parse_json(path.read_bytes())


def parse_json(text: bytes) -> Any:
    """Parses JSON that somebody else may have written, or that may be damaged.

    Args:
        text: with or without a byte order mark. NaN and infinity are taken; see :func:`is_finite`.

    Raises:
        ValueError: it is no JSON, is nested too deeply, has a number of too many digits, or an
            object with the same key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_finite(value: Any) -> bool:
    """Whether a value of a JSON file is a number, and one that a float can hold."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def is_int64(value: Any) -> bool:
    """Whether a value of a JSON file is an integer, and one of 64 bits."""
    return type(value) is int and -(2**63) <= value < 2**63


@contextlib.contextmanager
def alone_in(folder: Path, wait: bool = True) -> Iterator[None]:
    """Makes ``folder``, and keeps all others out of ``alone_in`` it.

    The lock ends with the process that holds it, however that ends. On a file system without locks
    nobody is kept out, and a warning says so.

    Args:
        folder: in which one process works at a time.
        wait: whether to wait until no other is in ``folder``.

    Raises:
        BlockingIOError: another is in ``folder``, and ``wait`` is false.
        FolderError: the folder cannot be made or written to.
        OSError: it cannot be locked.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise FolderError(
            f"the folder must be one that can be written to, got {folder}: {error.strerror}"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _UNLOCKABLE:
                raise
            print(
                f"warning: {printable(folder)} is on a file system without locks: see that no "
                "other command writes to it",
                file=sys.stderr,
            )
        yield


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        ((repeated, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"an object must have each key once, got {shown(repeated)} twice")
    return found
