"""Files that are either whole or not there, and folders in which one process works at a time."""

import contextlib
import errno
import fcntl
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from experiments.engine.names import printable

# Of file systems that have no locks, as some of clusters have none.
_UNLOCKABLE = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file so that a reader, also after a crash, finds the old content or the new.

    Args:
        path: the file; its folder is created.
        write: gets a binary file that is open for writing, in the folder of ``path``.

    Raises:
        OSError: the file cannot be written; nothing of it is left then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as indented JSON, atomically; NaN and infinity are refused."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


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
        OSError: the folder cannot be made or locked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
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
