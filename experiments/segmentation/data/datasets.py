"""The datasets of the segmentation task."""

import dataclasses
from pathlib import Path

from experiments.data.ade20k import ade20k_folder
from experiments.data.classes import check_classes
from experiments.data.composed.label_scenes import prepare_label_scenes
from experiments.data.errors import DataError
from experiments.data.label_folders import (
    LabelFolders,
    label_folders_digest,
    prepare_label_folders,
    read_class_list,
)
from experiments.data.label_maps import LabelMaps, open_label_maps
from experiments.engine.folders import DataFolders
from experiments.segmentation.data.config import DataConfig, OwnFolders


def with_own_files(config: DataConfig) -> DataConfig:
    """Returns the config with the digest of a user's own files, and the number of their classes.

    Args:
        config: config of the data; it is returned unchanged without ``own`` folders.

    Returns:
        The config, with absolute paths.

    Raises:
        DataError: a folder or the class list is missing or cannot be read, or images and labels do
            not match.
    """
    own = config.own
    if own.images is None:
        return config
    assert own.labels is not None
    assert own.class_list is not None
    own = dataclasses.replace(
        own,
        images=str(Path(own.images).resolve()),
        labels=str(Path(own.labels).resolve()),
        class_list=str(Path(own.class_list).resolve()),
    )
    folders = _label_folders(own)
    classes = len(read_class_list(folders.class_list))
    own = dataclasses.replace(own, digest=label_folders_digest(folders), classes=classes)
    return dataclasses.replace(config, own=own)


def open_data(config: DataConfig, folders: DataFolders) -> LabelMaps:
    """Opens a dataset; composes the scenes, or prepares a user's own files, if necessary.

    Args:
        config: config of the data; with ``own`` folders, the result of :func:`with_own_files`.
        folders: folders of the datasets and of the files from which scenes are composed.

    Raises:
        DataError: ADE20K, the material of the scenes or a user's own files are missing or damaged;
            the message says how to prepare ADE20K and the material. Or the dataset has an
            unexpected number of classes or a split without a labelled pixel, or a user's own files
            have changed.
    """
    own = config.own.images is not None
    data = _open_own(config, folders) if own else _open_source(config, folders)
    for split, unlabelled in data.unlabelled_images.items():
        if unlabelled == len(data.source(split)):
            raise DataError(
                f"{data.folder} must have a labelled pixel in {split}, got none in all of its "
                f"{unlabelled} images"
            )
    return data


def _open_source(config: DataConfig, folders: DataFolders) -> LabelMaps:
    source: str = config.source
    match config.source:
        case "ade20k":
            folder = ade20k_folder(folders.data_dir)
        case "scenes":
            source = "label_scenes"
            folder = prepare_label_scenes(folders.data_dir, folders.cache, config.scenes)
    data = open_label_maps(folder)
    check_classes(source, data.class_names, folder)
    return data


def _open_own(config: DataConfig, folders: DataFolders) -> LabelMaps:
    digest = config.own.digest
    if digest is None:
        raise ValueError("own.digest must be the digest of the files, got None")
    data = open_label_maps(
        prepare_label_folders(folders.data_dir, _label_folders(config.own), digest)
    )
    if len(data.class_names) != config.classes:
        raise DataError(
            f"{data.folder} must have {config.classes} classes, got {len(data.class_names)}"
        )
    return data


def _label_folders(own: OwnFolders) -> LabelFolders:
    assert own.images is not None
    assert own.labels is not None
    assert own.class_list is not None
    return LabelFolders(
        Path(own.images),
        Path(own.labels),
        Path(own.class_list),
        own.image_suffix,
        own.label_suffix,
        own.unlabelled,
    )
