import pickle

import pytest

from experiments.data.errors import DataError
from experiments.data.folder import open_images


def touch(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names_of(folder):
    return [set(split.names) for split in open_images(folder)]


def test_images_are_found_by_suffix_in_all_subfolders(tmp_path):
    images = ["a.png", "b/c.JPG", "b/d/e.webp", "ü.tiff"]
    others = ["a.txt", "png", "b/thumbs.db", ".hidden.png", ".cache/f.png", "b/._c.jpg"]
    touch(tmp_path, images + others)
    train, validation = open_images(tmp_path)
    assert sorted(train.names + validation.names) == images
    assert train[2] == {"image": tmp_path / train.names[2]}
    assert len(train) == 3
    assert repr(validation) == f"1 images of {tmp_path}"
    assert pickle.loads(pickle.dumps(train))[0] == train[0]


def test_one_image_in_ten_is_for_validation_in_any_folder(tmp_path):
    names = [f"{number // 100}/{number}.jpg" for number in range(2000)]
    train, validation = open_images(touch(tmp_path / "one", names))
    assert 170 < len(validation) < 230
    assert len(train) + len(validation) == 2000
    assert list(train.names) == sorted(train.names)
    again = open_images(touch(tmp_path / "other", names[::-1]))
    assert [split.names for split in again] == [train.names, validation.names]


def test_an_image_stays_in_its_split_when_others_are_added(tmp_path):
    names = [f"{number}.jpg" for number in range(300)]
    train, validation = names_of(touch(tmp_path, names[:200]))
    more_train, more_validation = names_of(touch(tmp_path, names))
    assert train < more_train
    assert validation < more_validation


def test_two_images_are_split_into_training_and_validation(tmp_path):
    for number in range(0, 200, 2):  # by chance one pair in a hundred would have no training image
        folder = touch(tmp_path / str(number), [f"{number}.png", f"{number + 1}.png"])
        assert [len(split) for split in open_images(folder)] == [1, 1]


def test_a_missing_folder_or_one_with_too_few_images_is_refused(tmp_path):
    with pytest.raises(DataError, match=rf"images.*{tmp_path}/none"):
        open_images(tmp_path / "none")
    touch(tmp_path, ["one.png", "notes.txt"])
    with pytest.raises(DataError, match=rf" 1 .*{tmp_path}.*\.webp"):
        open_images(tmp_path)
