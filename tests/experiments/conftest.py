import pytest

from experiments.data.composed.crops import prepare


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    """The data set of crops of the seven photographs, built once."""
    return prepare("pypi", tmp_path_factory.mktemp("data"))
