"""Errors that commands report to their users, as opposed to faults of the program."""


class UserError(Exception):
    """An error that the user can correct; commands print it in one line, and exit with code 2."""


class InputError(UserError, ValueError):
    """A picture, a hole or an output given to a command cannot be used."""


class Interrupted(Exception):  # noqa: N818 (nothing went wrong)
    """The run was asked to stop, and has saved a checkpoint from which it can continue."""
