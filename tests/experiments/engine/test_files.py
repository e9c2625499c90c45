import errno
import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest

from experiments.engine.files import FolderError, locked, write_atomically


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(file):
        file.write(b"half of the new")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_after_the_new_file_is_in_place_is_raised(tmp_path, monkeypatch):
    path = tmp_path / "file"

    def replace(temporary, target):
        os.replace(temporary, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, lambda file: file.write(b"text"))
    assert path.read_text() == "text"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_any_new_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", lambda file: file.write(b"text"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_a_name_may_have_the_greatest_length_of_the_file_system(tmp_path):
    path = tmp_path / ("n" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    write_atomically(path, lambda file: file.write(b"text"))
    assert list(tmp_path.iterdir()) == [path]


def test_the_second_process_waits_for_the_lock(tmp_path):
    entered = threading.Event()

    def enter():
        with locked(tmp_path / "new"):
            entered.set()

    second = threading.Thread(target=enter)
    with locked(tmp_path / "new"):
        second.start()
        assert not entered.wait(0.3)
    second.join()
    assert entered.is_set()


def test_without_waiting_a_locked_folder_is_refused(tmp_path):
    with locked(tmp_path), pytest.raises(FolderError), locked(tmp_path, wait=False):
        pass
    with locked(tmp_path, wait=False):
        pass


def test_a_file_system_without_locks_only_warns(tmp_path, monkeypatch, capsys):
    def refusing(number):
        def refuse(*arguments):
            raise OSError(number, "refused")

        return refuse

    monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOLCK))
    with locked(tmp_path):
        assert str(tmp_path) in capsys.readouterr().err
    monkeypatch.setattr(fcntl, "flock", refusing(errno.EIO))
    with pytest.raises(OSError, match="refused"), locked(tmp_path):
        pass
