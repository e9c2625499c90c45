import pytest

from tests.experiments.inpainting.prediction.runs import save_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a checkpoint of an untrained network."""
    folder = tmp_path_factory.mktemp("run")
    save_run(folder, {0: (1.0, None)})
    return folder
