"""A dataset for detection and segmentation: cutouts of objects on crops of photographs.

It is written as a folder in COCO's layout and prepared like COCO, so that all code for COCO can be
tried offline: `python -m experiments.data.composed.scenes --help`. It is not a benchmark, because
the objects are pasted.
"""

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from pycocotools import mask as rle

from experiments.data import coco_tfds
from experiments.data.coco_annotations import Category
from experiments.data.coco_tfds import CocoConfig
from experiments.data.composed.cutouts import fetched_cutouts, read_cutout, split_by_cutout
from experiments.data.composed.cutouts_manifest import CLASSES
from experiments.data.composed.debian import DEFAULT_CACHE
from experiments.data.composed.photographs import debian_photographs, pypi_photographs
from experiments.data.composed.scenes_backgrounds import backgrounds, scaled_pixels
from experiments.data.composed.scenes_composition import Scene, compose
from experiments.data.composed.scenes_config import ScenesConfig
from experiments.engine.command_line import run_program
from experiments.engine.files import locked
from experiments.engine.json_files import write_json
from experiments.engine.text import printable

# With gaps, like the ids of COCO.
CATEGORIES = tuple(Category(2 * n + 1, name) for n, name in enumerate(CLASSES))

_SPLITS = ("train", "val")
_LANDSCAPE_SHARE = 0.7
_QUALITY = 92


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
    home = data_dir / "scenes"
    folder = home / config.name
    prepared = data_dir / coco_tfds.NAME / config.name / str(coco_tfds.CocoInstances.VERSION)
    if not prepared.is_dir():
        with locked(home):
            if not folder.is_dir():
                unfinished = home / f".unfinished-{config.name}"
                shutil.rmtree(unfinished, ignore_errors=True)
                _write_folder(unfinished, cache, config)
                unfinished.rename(folder)
    return coco_tfds.prepare(folder, data_dir, coco_config)


def scene(
    key: tuple[int, int],
    photographs: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    cutouts: Sequence[Sequence[Image.Image]],
    config: ScenesConfig,
) -> Scene:
    """Composes a scene, which is the same for the same arguments.

    Args:
        key: number of the split and of the scene, which seed all random choices.
        photographs: RGB photographs, uint8 ``[H, W, 3]``; each side is at least the longer side of
            a scene.
        cutouts: cutouts of each class, at least one; see
            :func:`experiments.data.composed.cutouts.read_cutout`.
        config: config of the scenes.
    """
    rng = np.random.default_rng(key)
    width, height = config.longer_side, config.shorter_side
    if rng.random() >= _LANDSCAPE_SHARE:
        width, height = height, width
    photograph = photographs[int(rng.integers(len(photographs)))]
    top, left = (
        int(rng.integers(whole - part, endpoint=True))
        for whole, part in zip(photograph.shape, (height, width), strict=False)
    )
    background = np.ascontiguousarray(photograph[top : top + height, left : left + width])
    count = int(rng.integers(config.max_objects)) + 1
    return compose(rng, background, cutouts, count, (config.smallest, config.largest))


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
    cutouts = split_by_cutout(fetched_cutouts(cache))
    photographs = backgrounds(
        pypi_photographs() if config.photographs == "pypi" else debian_photographs(cache)
    )
    counts = (config.training_images, config.validation_images)
    for split, (part, count) in enumerate(zip(_SPLITS, counts, strict=True)):
        pixels = [
            scaled_pixels(photograph, config.longer_side) for photograph in photographs[split]
        ]
        pictures = [
            [
                read_cutout(cutout.path, config.largest)
                for cutout in cutouts[split]
                if cutout.label == name
            ]
            for name in CLASSES
        ]
        first_id = 1 + split * config.training_images
        _write_split(folder, part, (split, first_id, count), pixels, pictures, config)


def _write_split(
    folder: Path,
    part: str,
    numbers: tuple[int, int, int],
    photographs: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    cutouts: Sequence[Sequence[Image.Image]],
    config: ScenesConfig,
) -> None:
    split, first_id, count = numbers
    (folder / part).mkdir(parents=True)

    def write(number: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        composed = scene((split, number), photographs, cutouts, config)
        image_id = first_id + number
        name = f"{image_id:012}.jpg"
        composed.image.save(folder / part / name, quality=_QUALITY)
        width, height = composed.image.size
        image = {"id": image_id, "file_name": name, "height": height, "width": width}
        return image, [{"image_id": image_id, **entry} for entry in annotations_of(composed)]

    # Threads suffice: Pillow and NumPy release the lock of the interpreter while they compute.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        written = list(pool.map(write, range(count)))
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
