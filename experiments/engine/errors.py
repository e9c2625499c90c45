"""Errors that commands report to their users, as opposed to faults of the program."""

import signal


class UserError(Exception):
    """An error that the user can correct; commands print it in one line, and exit with code 2."""


class InputError(UserError, ValueError):
    """A picture, a hole or an output given to a command cannot be used."""


class Interrupted(Exception):  # noqa: N818 (nothing went wrong)
    """A signal asked the run to stop, and it has saved a checkpoint from which it can continue.

    Args:
        message: what has been done and saved.
        received: the signal that was received.
    """

    def __init__(self, message: str, received: signal.Signals) -> None:
        super().__init__(message, received)
        self.message, self.received = message, received

    def __str__(self) -> str:
        """Returns the message."""
        return self.message
