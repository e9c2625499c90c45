import dataclasses
import shutil

import numpy as np
import pytest
from PIL import ExifTags, Image

from experiments.data.errors import DataError
from experiments.data.folder import open_images
from experiments.data.label_folders import (
    LabelFolders,
    label_folders_digest,
    prepare_label_folders,
    read_class_list,
)
from experiments.data.label_maps import decode_label, open_label_maps

CLASSES = ("road", "Straße", "sky")


def write_image(path, size=(20, 30), image_format=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(256, size=(*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, image_format)


def write_label(path, values, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8))
    if palette:
        image.putpalette(list(range(255, -1, -1)) * 3)
        assert image.mode == "P"
    image.save(path)


def labels_for(name, unlabelled=255, size=(20, 30)):
    """Numbers of three classes and unlabelled pixels, the same for the same name."""
    values = [0, 1, 2, 255] if unlabelled == 255 else [1, 2, 3, 0]
    return np.random.default_rng(list(name.encode())).choice(values, size=size)


def write_class_list(folder):
    (folder / "classes.txt").write_text("road\nStraße \nsky\n\n", encoding="utf-8")
    return folder / "classes.txt"


@pytest.fixture
def plain(tmp_path):
    """Folders without splits: images of several formats, labels with and without a palette."""
    names = [f"{number:02}.jpg" for number in range(20)] + ["sub/a.PNG", "sub/b.webp"]
    for number, name in enumerate(names):
        write_image(tmp_path / "images" / name)
        label = (tmp_path / "labels" / name).with_suffix(".PNG" if number == 3 else ".png")
        write_label(label, labels_for(name), palette=number % 2 == 0)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    (tmp_path / "images" / ".hidden.jpg").write_text("no image")
    return LabelFolders(tmp_path / "images", tmp_path / "labels", write_class_list(tmp_path))


@pytest.fixture
def cityscapes(tmp_path):
    """Folders in the layout of Cityscapes, with a test split and labels of other kinds."""
    images, labels = tmp_path / "leftImg8bit", tmp_path / "gtFine"
    for part, cities in {"train": ["aachen", "bochum"], "val": ["ulm"], "test": ["bonn"]}.items():
        for city in cities:
            stem = f"{part}/{city}/{city}_000000_000019"
            write_image(images / f"{stem}_leftImg8bit.png")
            write_label(labels / f"{stem}_gtFine_labelTrainIds.png", labels_for(city))
            Image.new("RGBA", (30, 20)).save(labels / f"{stem}_gtFine_color.png")
            write_label(labels / f"{stem}_gtFine_labelIds.png", np.full((20, 30), 33))
    shutil.rmtree(labels / "test")
    return LabelFolders(
        images, labels, write_class_list(tmp_path), "_leftImg8bit", "_gtFine_labelTrainIds"
    )


def opened(folders, data_dir):
    return open_label_maps(prepare_label_folders(data_dir, folders, label_folders_digest(folders)))


def records(source):
    return [source[index] for index in range(len(source))]


def test_one_image_in_ten_is_for_validation_as_in_a_folder_of_images(plain, tmp_path):
    data = opened(plain, tmp_path / "data")
    assert data.class_names == CLASSES
    for split, images in zip(("train", "validation"), open_images(plain.images), strict=True):
        found = records(data.source(split))
        assert tuple(record["file_name"] for record in found) == images.names
        for record in found:
            name = record["file_name"]
            assert record["image"] == (plain.images / name).read_bytes()
            np.testing.assert_array_equal(decode_label(record), labels_for(name))
    assert len(data.train) + len(data.validation) == 22
    assert len(data.validation) >= 1


def test_zero_can_be_the_unlabelled_value(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        write_image(tmp_path / "images" / name)
        write_label(tmp_path / "labels" / f"{name[0]}.png", labels_for(name, unlabelled=0))
    folders = LabelFolders(
        tmp_path / "images", tmp_path / "labels", write_class_list(tmp_path), unlabelled=0
    )
    data = opened(folders, tmp_path / "data")
    for record in (*records(data.train), *records(data.validation)):
        values = labels_for(record["file_name"], unlabelled=0)
        expected = np.where(values == 0, 255, values - 1)
        np.testing.assert_array_equal(decode_label(record), expected)


def test_subfolders_are_the_splits_and_suffixes_pair_the_files(cityscapes, tmp_path):
    data = opened(cityscapes, tmp_path / "data")
    cities = {"train": ["aachen", "bochum"], "validation": ["ulm"]}
    for split, expected in cities.items():
        part = "val" if split == "validation" else split
        found = records(data.source(split))
        assert [record["file_name"] for record in found] == [
            f"{part}/{city}/{city}_000000_000019_leftImg8bit.png" for city in expected
        ]
        for record, city in zip(found, expected, strict=True):
            np.testing.assert_array_equal(decode_label(record), labels_for(city))


def test_images_and_labels_may_be_in_one_folder(tmp_path):
    for name in "abc":
        write_image(tmp_path / "all" / f"{name}.png")
        write_label(tmp_path / "all" / f"{name}_mask.png", labels_for(name))
    folders = LabelFolders(
        tmp_path / "all", tmp_path / "all", write_class_list(tmp_path), label_suffix="_mask"
    )
    data = opened(folders, tmp_path / "data")
    found = records(data.train) + records(data.validation)
    assert sorted(record["file_name"] for record in found) == ["a.png", "b.png", "c.png"]
    for record in found:
        np.testing.assert_array_equal(decode_label(record), labels_for(record["file_name"][0]))


def test_names_that_are_not_utf_8_are_escaped(plain, tmp_path):
    (plain.images / "sub/a.PNG").rename(plain.images / "sub/\udcff.PNG")
    (plain.labels / "sub/a.png").rename(plain.labels / "sub/\udcff.png")
    data = opened(plain, tmp_path / "data")
    names = {record["file_name"] for record in records(data.train) + records(data.validation)}
    assert "sub/\\udcff.PNG" in names


def test_the_digest_changes_with_files_and_settings(plain, tmp_path):
    digests = {label_folders_digest(plain)}
    copied = shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-copy")
    same = LabelFolders(copied / "images", copied / "labels", copied / "classes.txt")
    assert label_folders_digest(same) in digests
    digests.add(label_folders_digest(dataclasses.replace(plain, unlabelled=0)))
    write_label(plain.labels / "01.png", np.zeros((20, 30)))
    digests.add(label_folders_digest(plain))
    # Another class in a file of the same size.
    label = plain.labels / "02.png"
    content = bytearray(label.read_bytes())
    content[-20] ^= 1
    label.write_bytes(content)
    digests.add(label_folders_digest(plain))
    write_image(plain.images / "01.jpg", (40, 30))
    digests.add(label_folders_digest(plain))
    (plain.images / "02.jpg").rename(plain.images / "2.jpg")
    (plain.labels / "02.png").rename(plain.labels / "2.png")
    digests.add(label_folders_digest(plain))
    plain.class_list.write_text("road\nStrasse\nsky")
    digests.add(label_folders_digest(plain))
    assert len(digests) == 7


def test_changed_files_are_another_dataset(plain, tmp_path):
    data_dir = tmp_path / "data"
    digest = label_folders_digest(plain)
    first = prepare_label_folders(data_dir, plain, digest)
    write_label(plain.labels / "01.png", np.zeros((20, 30)))
    assert prepare_label_folders(data_dir, plain, digest) == first
    second = prepare_label_folders(data_dir, plain, label_folders_digest(plain))
    assert second != first
    assert len(list((data_dir / "label_maps").iterdir())) == 2
    with pytest.raises(DataError, match=r"images.*labels.* same files .* run"):
        prepare_label_folders(tmp_path / "other", plain, digest)


def test_a_prepared_dataset_does_not_need_the_folders(plain, tmp_path):
    digest = label_folders_digest(plain)
    first = prepare_label_folders(tmp_path / "data", plain, digest)
    shutil.rmtree(plain.images)
    assert prepare_label_folders(tmp_path / "data", plain, digest) == first


def lose_label(folders):
    (folders.labels / "07.png").unlink()
    (folders.labels / "03.PNG").unlink()


def lose_image(folders):
    (folders.images / "07.jpg").unlink()


def double_image(folders):
    write_image(folders.images / "07.png")


def double_label(folders):
    write_label(folders.labels / "03.png", labels_for("x"))


def other_size(folders):
    write_label(folders.labels / "07.png", labels_for("x", size=(30, 20)))


def turned_image(folders):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (20, 30)).save(folders.images / "07.jpg", exif=exif)


def turned_back(folders):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (30, 20)).save(folders.images / "07.jpg", exif=exif)


def colour_label(folders):
    Image.new("RGB", (30, 20)).save(folders.labels / "07.png")


def high_label(folders):
    values = labels_for("x")
    values[4, 9] = 3
    values[:4] = 0
    write_label(folders.labels / "07.png", values)


def deep_label(folders):
    Image.new("I;16", (30, 20)).save(folders.labels / "07.png")


def damaged_label(folders):
    (folders.labels / "07.png").write_bytes(b"")


def damaged_image(folders):
    (folders.images / "07.jpg").write_bytes(b"no image")


def no_images(folders):
    shutil.rmtree(folders.images)
    folders.images.mkdir()


def no_labels(folders):
    shutil.rmtree(folders.labels)
    folders.labels.mkdir()


def no_folder(folders):
    shutil.rmtree(folders.labels)


def one_image(folders):
    for path in [*folders.images.rglob("*.*"), *folders.labels.rglob("*.*")]:
        if path.stem != "07" and path.is_file():
            path.unlink()


def jpeg_labels(folders):
    for path in [*folders.labels.rglob("*.png"), *folders.labels.rglob("*.PNG")]:
        path.rename(path.with_suffix(".jpg"))


FAULTS = [
    (lose_label, r"each image.* 2 of 22 .*images/03\.jpg"),
    (lose_image, r"each label.* 1 of 22 .*labels/07\.png"),
    (double_image, r"images/07\.png.*images/07\.jpg"),
    (double_label, r"labels/03\.png.*labels/03\.PNG"),
    (other_size, r"labels/07\.png.* 20 x 30 .*images/07\.jpg.* 30 x 20$"),
    (turned_image, r"labels/07\.png.* 30 x 20 .*images/07\.jpg.* 20 x 30\. .*EXIF"),
    (colour_label, r"labels/07\.png.* grey .*palette.* RGB\. .*colours"),
    (high_label, r"labels/07\.png.* 0\.\.2 .* 255 .* 3 in row 4, column 9,.* 1 of 600 "),
    (deep_label, r"labels/07\.png.* 8 bits.* I;16"),
    (damaged_label, r"labels/07\.png cannot be read.*empty"),
    (damaged_image, r"images/07\.jpg cannot be read"),
    (no_images, r"images and its subfolders.*\.jpg.* none"),
    (no_labels, r"labels and its subfolders.*\.png.* none"),
    (no_folder, r"labels must be a folder, got .*labels"),
    (one_image, r"at least two images.* 1 "),
    (jpeg_labels, r"labels and its subfolders.*\.png.* none"),
]


@pytest.mark.parametrize(("break_it", "message"), FAULTS)
def test_faults_are_named_and_leave_no_dataset(plain, tmp_path, break_it, message):
    break_it(plain)
    with pytest.raises(DataError, match=message):
        opened(plain, tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*.json"))
    assert not list((tmp_path / "data").rglob("incomplete*"))


def test_the_orientation_of_an_image_is_ignored(plain, tmp_path):
    turned_back(plain)
    data = opened(plain, tmp_path / "data")
    (record,) = (
        r for r in records(data.train) + records(data.validation) if "07" in r["file_name"]
    )
    assert (record["height"], record["width"]) == (20, 30)


def test_corrected_files_can_be_prepared_after_an_error(plain, tmp_path):
    high_label(plain)
    with pytest.raises(DataError, match=r"07\.png"):
        opened(plain, tmp_path / "data")
    write_label(plain.labels / "07.png", labels_for("x"))
    assert opened(plain, tmp_path / "data").class_names == CLASSES


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("gtFine/val", r"labels .*leftImg8bit/val.*gtFine/val"),
        ("gtFine/val/ulm", r"gtFine/val and .*'_gtFine_labelTrainIds'.* none"),
        ("leftImg8bit/val/ulm", r"leftImg8bit/val and .*'_leftImg8bit'.* none"),
        ("gtFine/train/bochum", r"each image.* 1 of 2 .*bochum_000000_000019_leftImg8bit\.png"),
        ("leftImg8bit/train/bochum", r"each label.* 1 of 2 .*bochum.*_gtFine_labelTrainIds\.png"),
    ],
)
def test_faults_of_splits_are_named(cityscapes, tmp_path, remove, message):
    shutil.rmtree(tmp_path / remove)
    with pytest.raises(DataError, match=message):
        opened(cityscapes, tmp_path / "data")


@pytest.mark.parametrize("count", [1, 255])
def test_there_may_be_one_to_255_classes(tmp_path, count):
    path = tmp_path / "classes.txt"
    names = [f"class {number}" for number in range(count)]
    path.write_bytes("\ufeff".encode() + "\r\n".join(names).encode())
    assert read_class_list(path) == tuple(names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r" 1\.\.255 .* 0$"),
        (b" \n\n", r" 1\.\.255 .* 0$"),
        ("\n".join(map(str, range(256))).encode(), r" 1\.\.255 .* 256$"),
        (b"a\n\nb", r" line 2, .* none$"),
        (b"a\nb\na \n", r"'a' in lines 1 and 3$"),
        (b"a\n\xff\n", r"UTF-8.* byte 2 "),
    ],
)
def test_invalid_class_lists_are_refused(tmp_path, content, message):
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"classes\.txt.*{message}"):
        read_class_list(path)


def test_a_missing_class_list_is_named(tmp_path):
    with pytest.raises(DataError, match=r"classes\.txt.*No such file"):
        read_class_list(tmp_path / "classes.txt")
