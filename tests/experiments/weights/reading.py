import pytest

from experiments.engine.errors import UserError
from experiments.weights.files import WeightsError, open_weights


def read(content, path):
    """Writes a file, and returns all its arrays by name."""
    path.write_bytes(content)
    with open_weights(path) as entries:
        return {name: entry.read() for name, entry in entries.items()}


def refused(path):
    """Returns the message of the error with which a file is refused."""
    with pytest.raises(WeightsError) as caught, open_weights(path):
        pass
    assert isinstance(caught.value, UserError)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)
