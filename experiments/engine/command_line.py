"""Shared functions of the command lines of all tasks."""

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import tyro
from absl import logging
from tyro.constructors import PrimitiveConstructorSpec, PrimitiveTypeInfo

from experiments.engine import streams
from experiments.engine.config import check
from experiments.engine.errors import Interrupted, UserError
from experiments.engine.text import printable

# The exit code that shells report for a program that was ended by a signal.
_AFTER_SIGNAL = 128  # plus its number

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_registry = tyro.constructors.ConstructorRegistry()


def run_command(task: str, commands: dict[str, Callable[..., Any]]) -> None:
    """Runs the subcommand named on the command line; errors are handled as in :func:`run_program`.

    Args:
        task: name of the task's package in ``experiments``.
        commands: functions that tyro calls, by the name of the subcommand.
    """

    def subcommand() -> None:
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog=f"python -m experiments.{task}",
            config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.CascadeSubcommandArgs),
            registry=_registry,
        )

    _run(subcommand)


def run_program(main: Callable[..., None]) -> None:
    """Runs a function with the arguments of the command line.

    A :class:`UserError` is printed in one line, with exit code 2. An error of the operating system
    also gives exit code 2, but with its traceback, because it may be a fault of the program. The
    exit code is 143 after SIGTERM, 130 after ctrl-C, and 141 when the reader of the output has
    closed it, as in ``| head``. If one of several processes ends early, the others end too. Paths
    must be local: ``~`` is the home of the user, and a URL such as ``gs://bucket/run`` is an error.

    Args:
        main: function that tyro calls.
    """
    _run(lambda: tyro.cli(main, registry=_registry))


@_registry.primitive_rule
def _paths(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    if info.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda arguments: _path(arguments[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    )


def _path(argument: str) -> Path:
    # As a path, "gs://bucket" would be a folder "gs:" in the current folder.
    check(not _URL.match(argument), "a path", "of this machine", argument)
    return Path(os.path.expanduser(argument))  # leaves "~x" if there is no user x


def _run(command: Callable[[], object]) -> None:
    if hasattr(sys.stdout, "reconfigure"):  # standard error already escapes
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.set_verbosity(logging.ERROR)  # tfds and grain recommend other packages
    try:
        command()
    except KeyboardInterrupt:
        streams.say("interrupted; the run can continue from its last checkpoint")
        # The exception may have left threads waiting for each other, and an exit would join them.
        _exit_at_once(_AFTER_SIGNAL + signal.SIGINT)
    except Interrupted as interrupted:
        # All processes end at the same step, so that none has to end another.
        streams.say(interrupted)
        if not streams.output_is_read():  # ctrl-C also ends the reader, as in ``| tee``
            streams.discard_output()
        sys.exit(_AFTER_SIGNAL + interrupted.received)
    except UserError as error:
        streams.say(f"error: {printable(error)}")
        _leave(2)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and not streams.output_is_read():
            _abort(_AFTER_SIGNAL + signal.SIGPIPE)
            _give_up_output(_AFTER_SIGNAL + signal.SIGPIPE)
        traceback.print_exc()
        streams.say(f"error: {printable(error)}")
        _leave(2)
    except Exception:
        traceback.print_exc()
        _leave(1)
    finally:
        _flush_output()


def _flush_output() -> None:
    try:
        print(end="", flush=True)
    except BrokenPipeError:
        _give_up_output(_AFTER_SIGNAL + signal.SIGPIPE)
    except OSError as error:
        streams.say(f"error: the output cannot be written: {error.strerror}")
        _give_up_output(2)


def _give_up_output(code: int) -> NoReturn:
    streams.discard_output()
    sys.exit(code)


def _leave(code: int) -> NoReturn:
    _abort(code)
    sys.exit(code)


def _abort(code: int) -> None:
    """Ends this process at once if it is one of several; the others notice it, and end too.

    An ordinary exit would take minutes, because JAX would wait for the other processes.
    """
    # A process that has not imported JAX is not connected to others, and errors of options are
    # reported without that import.
    if "jax" in sys.modules:
        from experiments.engine.distributed import connected

        if connected():
            _exit_at_once(code)


def _exit_at_once(code: int) -> NoReturn:
    streams.flush()
    os._exit(code)
