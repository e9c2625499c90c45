import json
import shutil

import pytest

from experiments.data.coco_tfds import prepare
from tests.experiments.data.coco_folder import CONFIG, content, contents, write_folder, write_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("coco") / "coco", contents())
    test = {name: value for name, value in content([31], []).items() if name != "annotations"}
    (folder / "annotations" / "image_info_test-dev.json").write_text(json.dumps(test))
    write_images(folder / "test", [31])
    return folder


@pytest.fixture(scope="module")
def data_dir(folder, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data")
    prepare(folder, data_dir, CONFIG)
    return data_dir


@pytest.fixture
def own_folder(folder, tmp_path):
    """A copy to break."""
    return shutil.copytree(folder, tmp_path / "own")
