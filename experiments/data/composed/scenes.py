"""A dataset for detection and segmentation: cutouts of objects on crops of photographs.

It is written as a folder in COCO's layout and prepared like COCO, so that all code for COCO can be
tried offline: `python -m experiments.data.composed.scenes --help`. It is not a benchmark, because
the objects are pasted.
"""

from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from experiments.data import coco_tfds
from experiments.data.coco_annotations import Category
from experiments.data.coco_tfds import CocoConfig
from experiments.data.composed.cutouts_manifest import CLASSES
from experiments.data.composed.debian import DEFAULT_CACHE
from experiments.data.composed.scenes_composition import Scene
from experiments.data.composed.scenes_config import ScenesConfig
from experiments.data.composed.scenes_writing import write_folder_once, write_scenes
from experiments.engine.command_line import run_program
from experiments.engine.json_files import write_json
from experiments.engine.text import printable

# With gaps, like the ids of COCO.
CATEGORIES = tuple(Category(2 * n + 1, name) for n, name in enumerate(CLASSES))

_SPLITS = ("train", "val")


def prepare_scenes(
    data_dir: Path, cache: Path = DEFAULT_CACHE, config: ScenesConfig | None = None
) -> Path:
    """Builds the dataset, unless it exists, and returns the folder from which to read it.

    The images and annotations are also in `data_dir/scenes/<name>`, in COCO's layout.

    Args:
        data_dir: folder of the tfds datasets.
        cache: folder that `python -m experiments.data.composed.debian --cutouts` filled.
        config: config of the scenes.

    Returns:
        The folder for :func:`experiments.data.coco.open_coco`.

    Raises:
        DataError: a cutout or a photograph is missing; the message names the command that
            fetches it.
    """
    config = config or ScenesConfig()
    coco_config = CocoConfig(name=config.name, train="train", validation="val")
    folder = data_dir / "scenes" / config.name
    if not coco_tfds.coco_path(data_dir, config.name).is_dir():
        write_folder_once(folder, lambda unfinished: _write_folder(unfinished, cache, config))
    return coco_tfds.prepare(folder, data_dir, coco_config)


def annotations_of(composed: Scene) -> list[dict[str, Any]]:
    """Returns the annotations of a scene in the format of COCO, without ids.

    Args:
        composed: scene to annotate.

    Returns:
        For each object, ``category_id``, ``bbox``, ``area`` and ``segmentation`` of its visible
        part, and ``iscrowd``, 0.
    """
    annotations = []
    for label, mask in zip(composed.labels, composed.masks, strict=True):
        encoded = rle.encode(np.asfortranarray(mask, np.uint8))
        height, width = (int(length) for length in encoded["size"])
        annotations.append(
            {
                "category_id": CATEGORIES[label].id,
                "bbox": rle.toBbox(encoded).tolist(),
                "area": int(rle.area(encoded)),
                "iscrowd": 0,
                "segmentation": {
                    "size": [height, width],
                    "counts": encoded["counts"].decode("ascii"),
                },
            }
        )
    return annotations


def _write_folder(folder: Path, cache: Path, config: ScenesConfig) -> None:
    def annotate(
        image_id: int, stem: str, composed: Scene
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        width, height = composed.image.size
        image = {"id": image_id, "file_name": f"{stem}.jpg", "height": height, "width": width}
        return image, [{"image_id": image_id, **entry} for entry in annotations_of(composed)]

    train, validation = (folder / part for part in _SPLITS)
    results = write_scenes((train, validation), cache, config, annotate)
    for part, written in zip(_SPLITS, results, strict=True):
        annotations = [entry for _, entries in written for entry in entries]
        content = {
            "images": [image for image, _ in written],
            "categories": [category._asdict() for category in CATEGORIES],
            "annotations": [{"id": 1 + index, **entry} for index, entry in enumerate(annotations)],
        }
        write_json(folder / "annotations" / f"instances_{part}.json", content)


def main(config: ScenesConfig, data_dir: Path = Path("data"), cache: Path = DEFAULT_CACHE) -> None:
    """Builds the scenes.

    Args:
        config: Config of the scenes.
        data_dir: Folder of the prepared datasets.
        cache: Folder that `python -m experiments.data.composed.debian --cutouts` filled.
    """
    print(printable(f"scenes in {prepare_scenes(data_dir, cache, config)}"))


if __name__ == "__main__":
    run_program(main)
