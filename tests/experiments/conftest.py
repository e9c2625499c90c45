import pytest

from experiments.data.composed.crops import prepare
from tests.experiments.compilation import few_optimizations


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    """The data set of crops of the seven photographs, built once."""
    return prepare("pypi", tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", name="few_optimizations")
def compile_with_few_optimizations():
    """See :func:`tests.experiments.compilation.few_optimizations`."""
    with few_optimizations():
        yield
