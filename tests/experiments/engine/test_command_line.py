import errno
import sys

import pytest

from experiments.data.prepared import DataError
from experiments.data.records import RecordError
from experiments.engine.checkpoints import CheckpointError
from experiments.engine.command_line import run_command
from experiments.engine.config import ConfigError
from experiments.engine.distributed import Interrupted
from experiments.engine.errors import InputError, UserError
from experiments.engine.evaluation import UnreadableEvaluationError
from experiments.engine.loop import NonFiniteLossError, UnreadableRecordsError
from experiments.inpainting.web.page import ServeError
from experiments.models.torch_weights import WeightsError


class TaskError(UserError, ValueError):
    pass


def run_raising(error, monkeypatch, capsys):
    """Runs a command that raises ``error``; returns the exit code and what was printed."""

    def command():
        raise error

    monkeypatch.setattr(sys, "argv", ["toy", "fail"])
    with pytest.raises(SystemExit) as ended:
        run_command("toy", {"fail": command, "other": command})
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    "error_type",
    [
        CheckpointError,
        ConfigError,
        RecordError,
        DataError,
        TaskError,
        InputError,
        NonFiniteLossError,
        ServeError,
        UnreadableEvaluationError,
        UnreadableRecordsError,
        WeightsError,
    ],
)
def test_an_error_that_the_user_can_mend_is_printed_in_one_line(error_type, monkeypatch, capsys):
    code, printed = run_raising(error_type("side must be 1, got 2"), monkeypatch, capsys)
    assert (code, printed) == (2, "error: side must be 1, got 2\n")


def test_an_error_that_names_any_file_is_printed_in_one_line(monkeypatch, capsys):
    error = InputError("image a\n\x1b[31mb\udcff is no picture")
    _, printed = run_raising(error, monkeypatch, capsys)
    assert printed == "error: image a\\n\\x1b[31mb\\udcff is no picture\n"


@pytest.mark.parametrize(
    ("error", "code", "traceback"),
    [
        (FileNotFoundError("a library's own, without a number"), 2, True),
        (OSError(errno.ENOSPC, "No space left on device", "runs/a"), 2, True),
        (ValueError("a library's own"), 1, True),
        (ZeroDivisionError("ours"), 1, True),
        (Interrupted("saved"), 143, False),
        (KeyboardInterrupt(), 130, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_another_error_has_its_own_code_and_keeps_its_traceback_where_it_may_be_ours(
    error, code, traceback, monkeypatch, capsys
):
    ended, printed = run_raising(error, monkeypatch, capsys)
    assert ended == code
    assert ("Traceback" in printed) == traceback
    assert str(error) in printed
