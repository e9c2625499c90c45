"""Files that are written completely or not at all, and folders locked for one process at a time."""

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

# Error numbers of file systems without locks, which some clusters have.
_UNLOCKABLE = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


class FolderError(UserError):
    """A folder that a command writes to is not a folder, is read-only, or is in use."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file so that readers find the old or the new content, even after a crash.

    The new file has the permissions that the umask of the process gives.

    Args:
        path: path of the file; its folder is created.
        write: function that writes the content to the open binary file that it is given.

    Raises:
        OSError: the file cannot be written; the old content is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Short, because the name of ``path`` may already have the greatest possible length.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    with temporary.open("xb") as file:
        try:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)  # an interrupt may come after the replacement
            raise


@contextlib.contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Creates ``folder`` and locks it against other callers of this function.

    The lock ends with the process that holds it, even if the process is killed. On a file system
    without locks a warning is printed, and nothing is locked.

    Args:
        folder: folder in which only one process may work at a time.
        wait: whether to wait while another process holds the lock.

    Raises:
        FolderError: the folder cannot be created or written to; or another process holds the lock,
            and ``wait`` is false.
        OSError: the folder cannot be locked.
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
                f"warning: {printable(folder)} is on a file system without locks: make sure that "
                "no other command writes to it",
                file=sys.stderr,
            )
        yield
