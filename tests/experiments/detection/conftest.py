import pytest

from tests.compilation import few_optimizations
from tests.experiments.detection import tiny


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, scenes_dir, cutouts_cache):
    """An untuned run of six steps, with a checkpoint after every second step."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    with few_optimizations():
        tiny.train(folder, scenes_dir, cutouts_cache)
    return folder
