import pytest

from tests.experiments.compilation import few_optimizations
from tests.experiments.data.composed.fake_cutouts import write_fake_cutouts
from tests.experiments.detection import tiny


@pytest.fixture(scope="session")
def cutouts_cache(tmp_path_factory):
    """A folder that holds what stands in for the cutouts."""
    cache = tmp_path_factory.mktemp("cutouts")
    write_fake_cutouts(cache)
    return cache


@pytest.fixture(scope="session")
def scenes_dir(tmp_path_factory):
    """A folder of tfds datasets, in which scenes are composed when they are needed."""
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, scenes_dir, cutouts_cache):
    """An untuned run of six steps, with a checkpoint after every second step."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    with few_optimizations():
        tiny.train(folder, scenes_dir, cutouts_cache)
    return folder
