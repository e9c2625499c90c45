import pytest

from tests.compilation import few_optimizations
from tests.experiments.segmentation import tiny


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, scenes_dir, cutouts_cache):
    """A run of six steps, with a checkpoint after every second step."""
    folder = tmp_path_factory.mktemp("tiny-segmentation") / "run"
    with few_optimizations():
        tiny.train(folder, scenes_dir, cutouts_cache)
    return folder
