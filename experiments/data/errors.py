"""The error for invalid data sets."""

from experiments.engine.errors import UserError


class DataError(UserError, ValueError):
    """A data set is missing, incomplete or invalid."""
