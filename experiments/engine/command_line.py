"""What the command lines of all tasks share."""

import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import tyro
from absl import logging

from experiments.engine.distributed import Interrupted, abort
from experiments.engine.errors import UserError
from experiments.engine.names import escape_on_output, printable

# What a shell reports of a program that a signal ended.
_AFTER_SIGINT, _AFTER_SIGTERM = 130, 143


def run_command(task: str, commands: dict[str, Callable[..., Any]]) -> None:
    """Runs the subcommand that the command line names.

    A :class:`UserError` is printed in one line, with exit code 2. So is an error of the operating
    system, below its traceback: it may also be a fault of ours. SIGTERM gives 143, and ctrl-C 130.
    Whatever ends one of several processes ends the others too.

    Args:
        task: the name of its package in ``experiments``.
        commands: by the name of the subcommand, what tyro calls.
    """
    escape_on_output()
    logging.set_verbosity(logging.ERROR)  # tfds and grain recommend other packages
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog=f"python -m experiments.{task}",
            config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.CascadeSubcommandArgs),
        )
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
        traceback.print_exc()
        print(f"error: {printable(error)}", file=sys.stderr)
        _leave(2)
    except Exception:
        traceback.print_exc()
        _leave(1)


def _leave(code: int) -> NoReturn:
    abort(code)
    sys.exit(code)
