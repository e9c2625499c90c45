import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.data.errors import DataError
from experiments.data.records import RecordError
from experiments.engine.checkpoints import CheckpointError
from experiments.engine.command_line import run_command, run_program
from experiments.engine.config import ConfigError
from experiments.engine.errors import InputError, Interrupted, UserError
from experiments.engine.evaluation import NonFiniteEvaluationError, UnreadableEvaluationError
from experiments.engine.loop import NonFiniteLossError, UnreadableRecordsError
from experiments.inpainting.web.page import ServeError
from experiments.weights.files import WeightsError


class TaskError(UserError, ValueError):
    pass


def run_raising(error, monkeypatch, capsys):
    """Runs a command that raises ``error``; returns the exit code and the output."""

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
        NonFiniteEvaluationError,
        NonFiniteLossError,
        ServeError,
        UnreadableEvaluationError,
        UnreadableRecordsError,
        WeightsError,
    ],
)
def test_an_error_that_the_user_can_correct_is_printed_in_one_line(error_type, monkeypatch, capsys):
    code, printed = run_raising(error_type("side must be 1, got 2"), monkeypatch, capsys)
    assert (code, printed) == (2, "error: side must be 1, got 2\n")


def test_an_error_with_any_file_name_is_printed_in_one_line(monkeypatch, capsys):
    error = InputError("image a\n\x1b[31mb\udcff is no picture")
    _, printed = run_raising(error, monkeypatch, capsys)
    assert printed == "error: image a\\n\\x1b[31mb\\udcff is no picture\n"


@pytest.mark.parametrize(
    ("error", "code", "traceback"),
    [
        (FileNotFoundError("a library's own, without a number"), 2, True),
        (OSError(errno.ENOSPC, "No space left on device", "runs/a"), 2, True),
        (BrokenPipeError("of another pipe than the output"), 2, True),
        (ValueError("a library's own"), 1, True),
        (ZeroDivisionError("ours"), 1, True),
        (Interrupted("saved", signal.SIGTERM), 143, False),
        (Interrupted("saved", signal.SIGINT), 130, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_other_errors_have_their_own_codes_and_faults_keep_their_traceback(
    error, code, traceback, monkeypatch, capsys
):
    ended, printed = run_raising(error, monkeypatch, capsys)
    assert ended == code
    assert ("Traceback" in printed) == traceback
    assert str(error) in printed


INTERRUPTED = """
import threading
from experiments.engine.command_line import run_program

def main() -> None:
    threading.Thread(target=threading.Event().wait).start()
    print("some output")
    raise KeyboardInterrupt

run_program(main)
"""


@pytest.mark.parametrize("redirection", ["", "2>&-", ">&-", "2>/dev/full"])
def test_after_ctrl_c_a_program_does_not_wait_for_its_threads(redirection):
    ended = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-c", INTERRUPTED],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 130
    assert ended.stdout == ("" if redirection.startswith(">") else "some output\n")
    assert ("interrupted" in ended.stderr) == ("2>" not in redirection)
    assert "Traceback" not in ended.stderr


def paths_of(arguments, monkeypatch):
    """Returns the paths that a program gets from the arguments of its command line."""
    got = []

    def main(paths: tuple[Path, ...], output: Path | None = None) -> None:
        got.extend((*paths, output))

    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    run_program(main)
    return got


def test_the_home_folder_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = ["--paths", "~/a", "./~", "~nobody-of-this-name", "--output=~/b"]
    assert paths_of(arguments, monkeypatch) == [
        tmp_path / "a",
        Path("~"),
        Path("~nobody-of-this-name"),
        tmp_path / "b",
    ]


@pytest.mark.parametrize("url", ["gs://bucket/run", "s3://b/r", "https://host/photo.jpg"])
@pytest.mark.parametrize("place", ["--paths", "--output"])
def test_a_url_is_not_accepted_as_a_path(url, place, monkeypatch, capsys):
    arguments = {"--paths": ["a"], "--output": ["b"], place: [url]}
    with pytest.raises(SystemExit, match="2"):
        paths_of([each for name in arguments for each in (name, *arguments[name])], monkeypatch)
    assert capsys.readouterr().err == f"error: a path must be of this machine, got {url!r}\n"


PRINTS = """
import sys
from experiments.engine.command_line import run_program
from experiments.engine.errors import UserError

def main(lines: int = 1, code: int = 0, text: str = "line") -> None:
    for _ in range(lines):
        print(text)
    if code == 3:
        raise UserError("correct it")
    if code:
        sys.exit(code)

run_program(main)
"""


def start_printing(*arguments, shell='exec "$@"'):
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"}
    return subprocess.Popen(
        ["sh", "-c", shell, "sh", sys.executable, "-c", PRINTS, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"PYTHONIOENCODING": "ascii"},
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["--lines=1000000"], [], ["--code=2"], ["--code=3"], ["--help"]]
)
def test_a_closed_output_ends_the_program_silently(arguments):
    with start_printing(*arguments) as program:
        program.stdout.close()
        assert program.stderr.read() == ("error: correct it\n" if arguments == ["--code=3"] else "")
    assert program.returncode == 141


def test_output_that_cannot_be_written_is_an_error():
    with start_printing(shell='exec "$@" >/dev/full') as program:
        assert re.fullmatch("error: .*output.* space.*\n", program.stderr.read())
    assert program.returncode == 2


def test_a_program_needs_no_standard_output():
    with start_printing(shell='exec "$@" >&-') as program:
        assert program.stderr.read() == ""
    assert program.returncode == 0


def test_characters_outside_the_encoding_of_the_output_are_escaped():
    with start_printing("--text=\u00e9") as program:
        assert program.stdout.read() == "\\xe9\n"
    assert program.returncode == 0
