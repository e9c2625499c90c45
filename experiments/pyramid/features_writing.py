"""Computes the maps of a frozen MobileNetV2 and writes them; see :mod:`.features`."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float16, UInt8
from rich.console import Console
from rich.progress import Progress

from experiments.data.composed.label_scenes import prepare_label_scenes
from experiments.data.composed.scenes_config import ScenesConfig
from experiments.data.label_maps import decode_label, open_label_maps
from experiments.data.record_images import decode_image
from experiments.data.records import Source, read_record
from experiments.engine.folders import DataFolders
from experiments.engine.json_files import write_json
from experiments.models.input_config import InputConfig
from experiments.models.input_normalization import normalize
from experiments.models.mobilenet import FEATURE_CHANNELS, FEATURE_STRIDES, MobileNetV2
from experiments.weights.mobilenets import load_mobilenet

# Part of the digest in the name of a folder. Increase it when the files change because of a change
# in this module, in the photographs and cutouts of the scenes, in the code that composes and
# prepares scenes, in the normalisation, or in MobileNetV2.
VERSION = 1
INDEX = "index.json"

_SPLITS = ("train", "validation")

type Extract = Callable[
    [UInt8[np.ndarray, "batch height width 3"]], tuple[Float16[Array, "batch _h _w _c"], ...]
]

type MakeExtractor = Callable[[Path], Extract]


def map_shapes(batch_size: int, height: int, width: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Returns the shapes of C2 to C5 of images.

    Args:
        batch_size: number of images.
        height: height of the images in pixels.
        width: width of the images in pixels.
    """
    return tuple(
        jax.ShapeDtypeStruct(
            (batch_size, -(-height // stride), -(-width // stride), channels), jnp.float16
        )
        for stride, channels in zip(FEATURE_STRIDES, FEATURE_CHANNELS, strict=True)
    )


def array_path(folder: Path, split: str, size: tuple[int, int], name: str) -> Path:
    """Returns the path of an array.

    Args:
        folder: folder of the features.
        split: split of the images.
        size: height and width of the images in pixels.
        name: ``"c2"`` to ``"c5"``, ``"labels"`` or ``"numbers"``.
    """
    return folder / f"{split}-{size[0]}x{size[1]}-{name}.npy"


def write_features(
    folder: Path,
    scenes: ScenesConfig,
    folders: DataFolders,
    weights: Path,
    extractor: MakeExtractor,
    batch_size: int = 32,
) -> None:
    """Computes and writes the features of all images. A terminal shows the progress.

    Args:
        folder: folder of the features, which is created.
        scenes: config of the scenes.
        folders: folders of the datasets, and of the files from which scenes are composed.
        weights: file of a MobileNetV2 of torchvision.
        extractor: function that makes the extractor of the maps from ``weights``, such as
            :func:`make_extractor`.
        batch_size: number of images in a batch of the extractor.

    Raises:
        DataError: the files from which scenes are composed are missing or damaged.
        RecordError: an image or a label map cannot be read.
        WeightsError: the file of the weights cannot be read or does not match.
    """
    data = open_label_maps(prepare_label_scenes(folders.data_dir, folders.cache, scenes))
    extract = extractor(weights)
    folder.mkdir(parents=True)
    sizes = {}
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        for split in _SPLITS:
            source = data.source(split)
            task = progress.add_task(f"features of {split}", total=len(source))
            numbers: dict[tuple[int, int], list[int]] = {}
            for number, (height, width) in enumerate(data.sizes[split]):
                numbers.setdefault((int(height), int(width)), []).append(number)
            sizes[split] = sorted(numbers)
            for size in sizes[split]:
                advance = lambda count, task=task: progress.advance(task, count)  # noqa: E731
                images = np.zeros((batch_size, *size, 3), np.uint8)
                _write_group(folder, split, images, numbers[size], source, extract, advance)
    write_json(folder / INDEX, {"class_names": list(data.class_names), "sizes": sizes})


def make_extractor(weights: Path) -> Extract:
    """Returns a function from uint8 images ``[B, H, W, 3]`` to C2, C3, C4 and C5 in float16.

    Args:
        weights: file of a MobileNetV2 of torchvision.

    Raises:
        WeightsError: the file cannot be read or does not match.
    """
    model, image = MobileNetV2(), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(
        lambda key: model.lazy_init(key, image, method="features"), jax.random.key(0)
    )
    variables = load_mobilenet(weights, shapes)

    @jax.jit
    def extract(variables: Any, images: jax.Array) -> tuple[jax.Array, ...]:
        maps = model.apply(variables, normalize(images, InputConfig()), method="features")
        return tuple(each.astype(jnp.float16) for each in maps)

    return functools.partial(extract, variables)


def _write_group(
    folder: Path,
    split: str,
    images: UInt8[np.ndarray, "batch height width 3"],
    numbers: list[int],
    source: Source,
    extract: Extract,
    advance: Callable[[int], None],
) -> None:
    """Writes the arrays of the images of one size, with ``images`` as the memory of a batch."""
    batch_size, height, width, _ = images.shape
    size = height, width
    names = [f"c{level}" for level in range(2, 6)]
    maps = [
        np.lib.format.open_memmap(
            array_path(folder, split, size, name), "w+", np.float16, each.shape
        )
        for name, each in zip(names, map_shapes(len(numbers), *size), strict=True)
    ]
    labels = np.zeros((len(numbers), *size), np.uint8)
    for first in range(0, len(numbers), batch_size):
        some = numbers[first : first + batch_size]
        for index, number in enumerate(some):
            record = read_record(source, number)
            images[index] = np.asarray(decode_image(record))
            labels[first + index] = decode_label(record)
        # The last batch has images of the one before, so that it is not compiled again.
        for array, found in zip(maps, jax.device_get(extract(images)), strict=True):
            array[first : first + len(some)] = found[: len(some)]
        advance(len(some))
    for array in maps:
        array.flush()
    np.save(array_path(folder, split, size, "labels"), labels)
    np.save(array_path(folder, split, size, "numbers"), np.array(numbers, np.int64))
