"""What can be wrong with a data set."""

from experiments.engine.errors import UserError


class DataError(UserError, ValueError):
    """A data set is missing, unfinished, or not as it must be to be read."""
