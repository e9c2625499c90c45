"""Errors for the user of a command, as opposed to faults of the program."""


class UserError(Exception):
    """An error that the user can mend: commands print it in one line, and exit with code 2."""


class InputError(UserError, ValueError):
    """What a command is given cannot be used: a picture, a hole, or the place for a result."""
