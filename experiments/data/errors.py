"""The error for invalid datasets."""

from experiments.engine.errors import UserError


class DataError(UserError, ValueError):
    """A dataset is missing, incomplete or invalid."""
