import pytest

from experiments.engine.folders import DataFolders
from experiments.pyramid.features import open_features
from tests.compilation import few_optimizations
from tests.experiments.pyramid.tiny import TINY


@pytest.fixture(scope="session")
def folders(scenes_dir, cutouts_cache):
    return DataFolders(scenes_dir, cutouts_cache)


@pytest.fixture(scope="session")
def features(folders):
    """The features of the scenes of the tiny config."""
    with few_optimizations():
        return open_features(TINY.scenes, folders)
