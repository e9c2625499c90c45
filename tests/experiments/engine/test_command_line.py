import errno
import sys

import pytest

from experiments.engine.checkpoints import CheckpointError
from experiments.engine.command_line import run_command
from experiments.engine.config import ConfigError
from experiments.engine.distributed import Interrupted
from experiments.engine.evaluation import UnreadableEvaluationError


class OwnError(ValueError):
    pass


@pytest.mark.parametrize(
    ("error", "code", "traceback"),
    [
        (ConfigError("side must be 1, got 2"), 2, False),
        (CheckpointError("no run"), 2, False),
        (UnreadableEvaluationError("records [3]"), 2, False),
        (OwnError("own"), 2, False),
        (FileNotFoundError("a library's own, without a number"), 2, True),
        (OSError(errno.ENOSPC, "No space left on device", "runs/a"), 2, True),
        (ZeroDivisionError("ours"), 1, True),
        (Interrupted("saved"), 143, False),
        (KeyboardInterrupt(), 130, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_an_error_ends_the_program_with_its_code_and_keeps_its_traceback_where_it_may_be_ours(
    error, code, traceback, monkeypatch, capsys
):
    def command():
        raise error

    monkeypatch.setattr(sys, "argv", ["toy", "fail"])
    with pytest.raises(SystemExit) as ended:
        run_command("toy", {"fail": command, "other": command}, OwnError)
    assert ended.value.code == code
    printed = capsys.readouterr().err
    assert ("Traceback" in printed) == traceback
    assert str(error) in printed
