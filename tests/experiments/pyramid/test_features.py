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
from experiments.pyramid.features import open_features, prepare_features
from experiments.pyramid.features_writing import make_extractor, map_shapes, write_features
from experiments.weights.mobilenets import load_mobilenet
from experiments.weights.public_file import pretrained_mobilenet
from tests.compilation import jit
from tests.experiments.pyramid.tiny import TINY, make_projection

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Killed(BaseException):
    """The end of a process, which no code handles."""


@pytest.mark.slow
def test_the_maps_are_those_of_mobilenet_on_normalised_images():
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 64, 3), np.uint8)
    found = make_extractor(pretrained_mobilenet())(images)
    model = MobileNetV2()
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    variables = load_mobilenet(pretrained_mobilenet(), shapes)
    apply = jit(lambda x: model.apply(variables, x, method="features"))
    expected = apply(((images / 255 - MEAN) / STD).astype(np.float32))
    for maps, shape, right in zip(found, map_shapes(2, 40, 64), expected, strict=True):
        assert (maps.shape, maps.dtype) == (shape.shape, shape.dtype)
        np.testing.assert_allclose(maps.astype(np.float32), right, rtol=2**-10, atol=2e-3)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_image_has_its_maps_and_its_label(split, features, folders):
    data = open_label_maps(prepare_label_scenes(folders.data_dir, folders.cache, TINY.scenes))
    source, seen = data.source(split), []
    project = make_projection(None)
    assert features.class_names == CLASS_NAMES
    assert features.count(split) == len(source)
    # Both orientations.
    assert [group.size for group in features.groups[split]] == [(72, 96), (96, 72)]
    for group in features.groups[split]:
        for row, number in enumerate(group.numbers):
            example, record = group[row], source[int(number)]
            np.testing.assert_array_equal(example["label"], decode_label(record))
            expected = project(np.asarray(decode_image(record))[None])
            for found, (right,) in zip(example["maps"], expected, strict=True):
                assert found.dtype == np.float16
                np.testing.assert_array_equal(found, right)
            seen.append(int(number))
    assert sorted(seen) == list(range(len(source)))


@pytest.fixture
def composed(folders, features, tmp_path):
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


def write(folder, folders, **options):
    weights = pretrained_mobilenet()
    write_features(folder, TINY.scenes, folders, weights, make_projection, **options)


def test_the_files_do_not_depend_on_the_size_of_batches(composed, features, tmp_path):
    write(tmp_path / "parts", composed, batch_size=3)
    assert_equal_files(tmp_path / "parts", features.folder)


@pytest.mark.parametrize("batches", [0, 3])
def test_a_build_that_is_killed_starts_again(batches, composed, features):
    calls = []

    def make_killing(weights):
        extract = make_projection(weights)

        def extract_some(images):
            if len(calls) == batches:
                raise Killed
            calls.append(images)
            return extract(images)

        return extract_some

    with pytest.raises(Killed):
        prepare_features(TINY.scenes, composed, make_killing)
    assert len(calls) == batches
    home = composed.data_dir / "pyramid_features"
    assert [path.name for path in home.iterdir() if not path.name.startswith(".")] == []
    folder = prepare_features(TINY.scenes, composed, make_projection)
    assert_equal_files(folder, features.folder)
    assert {path.name for path in home.iterdir()} == {".lock", folder.name}


def test_two_callers_compute_the_features_once(composed):
    calls = []
    both = threading.Barrier(2)

    def counted(weights):
        calls.append(weights)
        return make_projection(weights)

    def prepare():
        both.wait()
        prepare_features(TINY.scenes, composed, counted)

    threads = [threading.Thread(target=prepare) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [pretrained_mobilenet()]


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


def test_opening_again_computes_nothing(features, folders):
    assert open_features(TINY.scenes, folders, None).folder == features.folder
