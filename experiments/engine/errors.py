"""Errors that a command reports to its user, as opposed to faults of the program."""


class UserError(Exception):
    """An error that the user can mend: commands print it in one line, and exit with code 2."""


class InputError(UserError, ValueError):
    """A picture, a hole or an output that a command is given and that cannot be used."""


class Interrupted(Exception):  # noqa: N818 (nothing went wrong)
    """The run was asked to stop, and has saved a checkpoint to go on from."""
