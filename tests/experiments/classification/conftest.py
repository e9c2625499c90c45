import pytest

from experiments.data.composed import digits


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    """A folder of tfds datasets that holds the digits."""
    folder = tmp_path_factory.mktemp("digits")
    digits.prepare(folder)
    return folder
