"""Errors that a command reports to its user, as opposed to faults of the program."""

import reprlib
from typing import Any

_SHORT = reprlib.Repr(
    maxlevel=4, maxlist=10, maxtuple=10, maxdict=10, maxlong=40, maxstring=100, maxother=100
)
_LONGEST = 200


class UserError(Exception):
    """An error that the user can mend: commands print it in one line, and exit with code 2."""


class InputError(UserError, ValueError):
    """A picture, a hole or an output that a command is given and that cannot be used."""


def shown(value: Any) -> str:
    """Writes a value for the message of an error: shortened, however long or deep it is.

    Args:
        value: of a file that somebody else may have written.
    """
    text = _SHORT.repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
