"""What the command lines of all tasks share."""

import os
import re
import select
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import tyro
from absl import logging
from tyro.constructors import PrimitiveConstructorSpec, PrimitiveTypeInfo

from experiments.engine.config import check
from experiments.engine.errors import Interrupted, UserError
from experiments.engine.text import printable

# What a shell reports of a program that a signal ended.
_AFTER_SIGINT, _AFTER_SIGPIPE, _AFTER_SIGTERM = 130, 141, 143

_STANDARD_OUTPUT = 1
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_registry = tyro.constructors.ConstructorRegistry()


def run_command(task: str, commands: dict[str, Callable[..., Any]]) -> None:
    """Runs the subcommand that the command line names, as :func:`run_program` does.

    Args:
        task: the name of its package in ``experiments``.
        commands: by the name of the subcommand, what tyro calls.
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

    A :class:`UserError` is printed in one line, with exit code 2. So is an error of the operating
    system, below its traceback: it may also be a fault of ours. SIGTERM gives 143, ctrl-C 130, and
    141 means that nobody reads the output any more, as behind ``| head``. Whatever ends one of
    several processes ends the others too. Paths are of this machine: ``~`` is the home of the
    user, and a URL such as ``gs://bucket/run`` is an error.

    Args:
        main: what tyro calls.
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
    # As a path, "gs://bucket" would be a folder "gs:" in the current one.
    check(not _URL.match(argument), "a path", "of this machine", argument)
    return Path(os.path.expanduser(argument))  # leaves "~x" where there is no user x


def _run(command: Callable[[], object]) -> None:
    if hasattr(sys.stdout, "reconfigure"):  # standard error does so by itself
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.set_verbosity(logging.ERROR)  # tfds and grain recommend other packages
    try:
        command()
    except KeyboardInterrupt:
        print("interrupted; a run goes on from its last checkpoint", file=sys.stderr)
        _leave(_AFTER_SIGINT)
    except Interrupted as interrupted:
        # All processes end at the same step, so none has to be ended by another.
        print(interrupted, file=sys.stderr)
        sys.exit(_AFTER_SIGTERM)
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        _leave(2)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and not _output_is_read():
            _abort(_AFTER_SIGPIPE)
            _give_up_output(_AFTER_SIGPIPE)
        traceback.print_exc()
        print(f"error: {printable(error)}", file=sys.stderr)
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
        _give_up_output(_AFTER_SIGPIPE)
    except OSError as error:
        print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
        _give_up_output(2)


def _give_up_output(code: int) -> NoReturn:
    # Or Python would fail once more when it flushes at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STANDARD_OUTPUT)
    sys.exit(code)


def _output_is_read() -> bool:
    poll = select.poll()
    poll.register(_STANDARD_OUTPUT, 0)
    return not any(event & select.POLLERR for _, event in poll.poll(0))


def _leave(code: int) -> NoReturn:
    _abort(code)
    sys.exit(code)


def _abort(code: int) -> None:
    # A process that has not imported JAX has joined no others, and an error of an option comes
    # without that import.
    if "jax" in sys.modules:
        from experiments.engine.distributed import abort

        abort(code)
