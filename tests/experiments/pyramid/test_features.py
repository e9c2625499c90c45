import dataclasses
import pickle
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.composed.label_scenes import CLASS_NAMES, prepare_label_scenes
from experiments.data.label_maps import decode_label, open_label_maps
from experiments.data.record_images import decode_image
from experiments.engine.folders import DataFolders
from experiments.models.mobilenet import MobileNetV2
from experiments.pyramid import features as reading
from experiments.pyramid import features_writing as writing
from experiments.pyramid.features import open_features, prepare_features
from experiments.weights.mobilenets import load_mobilenet
from experiments.weights.public_file import pretrained_mobilenet
from tests.compilation import jit
from tests.experiments.pyramid.tiny import TINY

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Killed(BaseException):
    """The end of a process, which no code handles."""


@pytest.fixture(scope="module")
def backbone():
    """MobileNetV2 in float32, normalised as in torchvision."""
    model = MobileNetV2()
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    variables = load_mobilenet(pretrained_mobilenet(), shapes)
    apply = jit(lambda x: model.apply(variables, x, method="features"))

    def maps(image):
        normalised = (np.asarray(image) / 255 - MEAN) / STD
        return [each[0] for each in apply(normalised[None].astype(np.float32))]

    return maps


@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_image_has_the_maps_of_the_backbone_and_its_label(split, features, folders, backbone):
    data = open_label_maps(prepare_label_scenes(folders.data_dir, folders.cache, TINY.scenes))
    source, seen = data.source(split), []
    assert features.class_names == CLASS_NAMES
    assert features.count(split) == len(source)
    # Both orientations.
    assert [group.size for group in features.groups[split]] == [(72, 96), (96, 72)]
    for group in features.groups[split]:
        for row, number in enumerate(group.numbers):
            example, record = group[row], source[int(number)]
            np.testing.assert_array_equal(example["label"], decode_label(record))
            for found, right in zip(example["maps"], backbone(decode_image(record)), strict=True):
                assert found.dtype == np.float16
                np.testing.assert_allclose(found.astype(np.float32), right, rtol=2**-10, atol=2e-3)
            seen.append(int(number))
    assert sorted(seen) == list(range(len(source)))


@pytest.fixture
def quick(monkeypatch):
    """Replaces the backbone by pixels of the image, which need no compilation."""

    def extract(images):
        return tuple(
            jnp.asarray(images)[:, ::stride, ::stride].astype(jnp.float16)
            for stride in (4, 8, 16, 32)
        )

    monkeypatch.setattr(writing, "make_extractor", lambda weights: extract)


@pytest.fixture
def elsewhere(folders, features, tmp_path):
    """Folders with the composed scenes, but without features."""
    del features  # composed with them
    home = tmp_path / "data"
    home.mkdir()
    for name in ("label_maps", "label_scenes"):
        (home / name).symlink_to(folders.data_dir / name)
    return DataFolders(home, folders.cache)


def assert_equal_files(folder, other):
    contents = [{each.name: each.read_bytes() for each in at.iterdir()} for at in (folder, other)]
    assert len(contents[0]) == 25  # six arrays of two sizes in two splits, and the index
    assert contents[0] == contents[1]


@pytest.mark.usefixtures("quick")
def test_the_files_do_not_depend_on_the_size_of_batches(elsewhere, monkeypatch, tmp_path):
    for name, size in (("whole", 32), ("parts", 3)):
        monkeypatch.setattr(writing, "_BATCH", size)
        writing.write_features(tmp_path / name, TINY.scenes, elsewhere, pretrained_mobilenet())
    assert_equal_files(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("written", [0, 3, 7, 8])
def test_a_build_that_is_killed_between_files_starts_again(
    written, elsewhere, monkeypatch, tmp_path
):
    saved = []

    def killing(save):
        def save_some(*arguments):
            if len(saved) == written:
                raise Killed
            saved.append(arguments)
            save(*arguments)

        return save_some

    with monkeypatch.context() as patch:
        patch.setattr(writing.np, "save", killing(np.save))
        patch.setattr(writing, "write_json", killing(writing.write_json))
        with pytest.raises(Killed):
            prepare_features(TINY.scenes, elsewhere)
    assert len(saved) == written
    home = elsewhere.data_dir / "pyramid_features"
    assert [path.name for path in home.iterdir() if not path.name.startswith(".")] == []
    folder = prepare_features(TINY.scenes, elsewhere)
    writing.write_features(tmp_path / "whole", TINY.scenes, elsewhere, pretrained_mobilenet())
    assert_equal_files(folder, tmp_path / "whole")
    assert {path.name for path in home.iterdir()} == {".lock", folder.name}


@pytest.mark.usefixtures("quick")
def test_two_callers_compute_the_features_once(elsewhere, monkeypatch):
    calls, write = [], reading.write_features
    both = threading.Barrier(2)

    def counted(*arguments):
        calls.append(arguments)
        write(*arguments)

    def prepare():
        both.wait()
        prepare_features(TINY.scenes, elsewhere)

    monkeypatch.setattr(reading, "write_features", counted)
    threads = [threading.Thread(target=prepare) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_the_folder_depends_on_scenes_weights_and_version(folders, tmp_path, monkeypatch):
    names = set()

    def prepare(scenes=TINY.scenes):
        names.add(prepare_features(scenes, DataFolders(tmp_path, folders.cache)).name)

    monkeypatch.setattr(reading, "write_features", lambda folder, *_: folder.mkdir(parents=True))
    prepare()
    prepare()
    assert len(names) == 1
    prepare(dataclasses.replace(TINY.scenes, max_objects=3))
    assert len(names) == 2
    with monkeypatch.context() as patch:
        other = tmp_path / "other.pth"
        other.write_bytes(b"other weights")
        patch.setattr(reading, "pretrained_mobilenet", lambda: other)
        prepare()
    assert len(names) == 3
    monkeypatch.setattr(reading, "VERSION", 0)
    prepare()
    assert len(names) == 4


def test_a_worker_receives_the_paths_of_arrays_not_their_contents(features):
    (group, _) = features.groups["train"]
    assert len(group.maps[0]) == len(group)
    pickled = pickle.dumps(group)
    assert len(pickled) < 3000
    for found, right in zip(pickle.loads(pickled)[1]["maps"], group[1]["maps"], strict=True):
        np.testing.assert_array_equal(found, right)


def test_an_example_can_be_changed_without_changing_the_file(features):
    group = features.groups["train"][0]
    label = group[0]["label"]
    before = label.copy()
    label[:] = 9
    np.testing.assert_array_equal(group[0]["label"], before)


def test_opening_again_computes_nothing(features, folders, monkeypatch):
    monkeypatch.setattr(reading, "write_features", None)
    assert open_features(TINY.scenes, folders).folder == features.folder
