"""A dataset for semantic segmentation: the scenes of :mod:`.scenes` with label maps.

It is written as a folder in ADE20K's layout and prepared like ADE20K, so that all code for ADE20K
can be tried without ADE20K: `python -m experiments.data.composed.label_scenes --help`. It is not a
benchmark, because the objects are pasted.
"""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from experiments.data import label_maps_tfds
from experiments.data.ade_layout import SPLITS, AdeLayout, list_ade_files
from experiments.data.composed.cutouts_manifest import CLASSES
from experiments.data.composed.debian import DEFAULT_CACHE
from experiments.data.composed.scenes_composition import Scene
from experiments.data.composed.scenes_config import ScenesConfig
from experiments.data.composed.scenes_writing import write_folder_once, write_scenes
from experiments.data.label_files import encode_label
from experiments.engine.command_line import run_program
from experiments.engine.text import printable

CLASS_NAMES = ("other", *CLASSES)
LAYOUT = AdeLayout(f"objectInfo{len(CLASS_NAMES)}.txt", len(CLASS_NAMES))

_OTHER = 1  # 0 means no class; each pixel of a scene has one


def prepare_label_scenes(
    data_dir: Path, cache: Path = DEFAULT_CACHE, config: ScenesConfig | None = None
) -> Path:
    """Builds the dataset, unless it exists, and returns the folder from which to read it.

    The images are those of :func:`experiments.data.composed.scenes.prepare_scenes`. Images and
    labels are also in `data_dir/label_scenes/<name>`, in ADE20K's layout.

    Args:
        data_dir: folder of the tfds datasets.
        cache: folder that `python -m experiments.data.composed.debian --cutouts` filled.
        config: config of the scenes; None for the default config.

    Returns:
        The folder for :func:`experiments.data.label_maps.open_label_maps`.

    Raises:
        DataError: a cutout or a photograph is missing; the message names the command that
            fetches it.
    """
    config = config or ScenesConfig()
    folder = data_dir / "label_scenes" / config.name
    if not label_maps_tfds.label_maps_path(data_dir, config.name).is_dir():
        write_folder_once(folder, lambda unfinished: _write_folder(unfinished, cache, config))
    return label_maps_tfds.prepare(config.name, data_dir, lambda: list_ade_files(folder, LAYOUT))


def label_of(composed: Scene) -> UInt8[np.ndarray, "height width"]:
    """Returns the label of a scene: 1 for the class "other", and 2..13 for objects."""
    width, height = composed.image.size
    label = np.full((height, width), _OTHER, np.uint8)
    for number, mask in zip(composed.labels, composed.masks, strict=True):
        label[mask] = _OTHER + 1 + number
    return label


def _write_folder(folder: Path, cache: Path, config: ScenesConfig) -> None:
    train, validation = (folder / "images" / part for part in SPLITS.values())
    parts = tuple(folder / "annotations" / part for part in SPLITS.values())
    for part in parts:
        part.mkdir(parents=True)

    def annotate(image_id: int, stem: str, composed: Scene) -> None:
        part = parts[image_id > config.training_images]
        (part / f"{stem}.png").write_bytes(encode_label(label_of(composed)))

    write_scenes((train, validation), cache, config, annotate)
    rows = ["Idx\tName", *(f"{number}\t{name}" for number, name in enumerate(CLASS_NAMES, 1))]
    (folder / LAYOUT.class_list).write_text("\n".join(rows) + "\n")


def main(config: ScenesConfig, data_dir: Path = Path("data"), cache: Path = DEFAULT_CACHE) -> None:
    """Builds the scenes.

    Args:
        config: Config of the scenes.
        data_dir: Folder of the prepared datasets.
        cache: Folder that `python -m experiments.data.composed.debian --cutouts` filled.
    """
    print(printable(f"scenes in {prepare_label_scenes(data_dir, cache, config)}"))


if __name__ == "__main__":
    run_program(main)
