"""Files that are either whole or not there, and folders in which one process works at a time."""

import contextlib
import errno
import fcntl
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from experiments.engine.errors import UserError
from experiments.engine.text import printable

# Of file systems that have no locks, as some of clusters have none.
_UNLOCKABLE = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


class FolderError(UserError):
    """A folder that a command is to write to is none, is read-only, or is in use."""


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


@contextlib.contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Makes ``folder``, and keeps all others who lock it waiting, or out.

    The lock ends with the process that holds it, however that ends. On a file system without locks
    nobody is kept out, and a warning says so.

    Args:
        folder: in which one process works at a time.
        wait: whether to wait until no other has locked ``folder``.

    Raises:
        FolderError: the folder cannot be made or written to; or another has locked it, and ``wait``
            is false.
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
        except BlockingIOError:
            raise FolderError(
                f"the folder must be one in which no other command works, got {folder}"
            ) from None
        except OSError as error:
            if error.errno not in _UNLOCKABLE:
                raise
            print(
                f"warning: {printable(folder)} is on a file system without locks: see that no "
                "other command writes to it",
                file=sys.stderr,
            )
        yield
