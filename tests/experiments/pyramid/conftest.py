import json

import numpy as np
import pytest

from experiments.engine.folders import DataFolders
from experiments.pyramid.features import open_features
from tests.experiments.pyramid.tiny import TINY, make_projection


@pytest.fixture(scope="session")
def folders(scenes_dir, cutouts_cache):
    return DataFolders(scenes_dir, cutouts_cache)


@pytest.fixture(scope="session")
def features(folders):
    """Features of the scenes of the tiny config, not of the real backbone."""
    return open_features(TINY.scenes, folders, make_projection)


@pytest.fixture(scope="session")
def landscapes(features, folders, tmp_path_factory):
    """Folders with the features of the landscapes alone: programs are compiled for one size."""
    home = tmp_path_factory.mktemp("landscapes")
    folder = home / "pyramid_features" / features.folder.name
    folder.mkdir(parents=True)
    index = json.loads((features.folder / "index.json").read_text())
    sizes = {split: [[72, 96]] for split in index["sizes"]}
    (folder / "index.json").write_text(json.dumps({**index, "sizes": sizes}))
    for split in sizes:
        for name in ("c2", "c3", "c4", "c5", "labels"):
            file = f"{split}-72x96-{name}.npy"
            (folder / file).symlink_to(features.folder / file)
        numbers = np.load(features.folder / f"{split}-72x96-numbers.npy")
        np.save(folder / f"{split}-72x96-numbers.npy", np.arange(len(numbers)))
    return DataFolders(home, folders.cache)
