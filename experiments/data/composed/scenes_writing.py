"""Writes composed scenes to folders, from which datasets are prepared."""

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from experiments.data.composed.cutouts import fetched_cutouts, read_cutout, split_by_cutout
from experiments.data.composed.cutouts_manifest import CLASSES
from experiments.data.composed.photographs import debian_photographs, pypi_photographs
from experiments.data.composed.scenes_backgrounds import backgrounds, scaled_pixels
from experiments.data.composed.scenes_composition import Scene, compose
from experiments.data.composed.scenes_config import ScenesConfig
from experiments.engine.files import locked

_LANDSCAPE_SHARE = 0.7
_QUALITY = 92


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


def write_scenes[Result](
    folders: tuple[Path, Path],
    cache: Path,
    config: ScenesConfig,
    annotate: Callable[[int, str, Scene], Result],
) -> tuple[list[Result], list[Result]]:
    """Composes all scenes, and writes their images, which are the same in all datasets of scenes.

    Args:
        folders: folders of the training and the validation images, which are created.
        cache: folder that `python -m experiments.data.composed.debian --cutouts` filled.
        config: config of the scenes.
        annotate: function of the number of an image in both splits, from 1 on, its file name
            without the suffix, and its scene; it may run in several threads.

    Returns:
        The results of ``annotate`` for the training and the validation images.

    Raises:
        DataError: a cutout or a photograph is missing; the message names the command that
            fetches it.
    """
    cutouts = split_by_cutout(fetched_cutouts(cache))
    photographs = backgrounds(
        pypi_photographs() if config.photographs == "pypi" else debian_photographs(cache)
    )
    first_ids = (1, 1 + config.training_images)
    counts = (config.training_images, config.validation_images)

    def write_split(split: int) -> list[Result]:
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
        folders[split].mkdir(parents=True)

        def write(number: int) -> Result:
            composed = scene((split, number), pixels, pictures, config)
            image_id = first_ids[split] + number
            stem = f"{image_id:012}"
            composed.image.save(folders[split] / f"{stem}.jpg", quality=_QUALITY)
            return annotate(image_id, stem, composed)

        # Threads suffice: Pillow and NumPy release the lock of the interpreter while they compute.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(write, range(counts[split])))

    return write_split(0), write_split(1)


def write_folder_once(folder: Path, write: Callable[[Path], object]) -> None:
    """Writes a folder completely, unless it exists; one of several processes writes it.

    Args:
        folder: folder to write; the folder above it is created and locked.
        write: function that creates a folder and writes its files.
    """
    home = folder.parent
    with locked(home):
        if not folder.is_dir():
            unfinished = home / f".unfinished-{folder.name}"
            shutil.rmtree(unfinished, ignore_errors=True)
            write(unfinished)
            unfinished.rename(folder)
