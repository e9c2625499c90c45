"""Classifies images of a user with a trained run."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from experiments.classification.configs import ClassificationConfig
from experiments.classification.images import evaluation_crop
from experiments.classification.maps import check_has_maps, map_drawer
from experiments.classification.task import CLASSES, RUNS, classify, make_model
from experiments.data.classes import num_classes
from experiments.data.picture_outputs import PictureOutputs
from experiments.data.pictures import open_picture, to_rgb
from experiments.engine.checkpoints import CheckpointError
from experiments.engine.config import check
from experiments.engine.errors import InputError
from experiments.engine.json_files import read_json
from experiments.engine.predictions import predict_each, report
from experiments.engine.runs import LoadedRun
from experiments.engine.settings import CheckpointChoice
from experiments.engine.text import printable, shown

_SHOWN = 5


class Guess(NamedTuple):
    """A class of an image, with its probability."""

    name: str
    probability: float


def load_classifier(
    folder: Path, checkpoint: CheckpointChoice = "newest"
) -> tuple[LoadedRun[ClassificationConfig], tuple[str, ...]]:
    """Reads a checkpoint of a run, and the names of its classes.

    Args:
        folder: folder of the run.
        checkpoint: the newest checkpoint, or the one with the highest top-1 accuracy.

    Raises:
        CheckpointError: ``folder`` holds no run of this task, or it cannot be read.
    """
    run = RUNS.load(folder, checkpoint)
    try:
        names = read_json(folder / CLASSES)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / CLASSES} cannot be read: {error}") from error
    count = num_classes(run.config.data.source)
    named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not named or len(names) != count:
        raise CheckpointError(
            f"{folder / CLASSES} must be a list of the {count} names of classes, got {shown(names)}"
        )
    return run, tuple(names)


def classifier(
    run: LoadedRun[ClassificationConfig], class_names: Sequence[str]
) -> Callable[[Image.Image], list[Guess]]:
    """Returns a function from an image to its five most probable classes, compiled once.

    It raises :class:`InputError` if the network gives NaN or infinite values.
    """
    model, config = make_model(run.config), run.config

    @jax.jit
    def logits_of(image: jax.Array) -> jax.Array:
        return classify(model, run.state, image[None])[0]

    def guess(image: Image.Image) -> list[Guess]:
        logits = logits_of(evaluation_crop(to_rgb(image), config.data))
        if not np.isfinite(logits).all():
            raise InputError(
                "the network must give finite logits, got NaN or infinity: its parameters are "
                "broken, or it overflows on this image"
            )
        found = np.asarray(jax.nn.softmax(logits))
        order = np.argsort(-found, kind="stable")[:_SHOWN]
        return [Guess(class_names[index], float(found[index])) for index in order]

    return guess


def predict(
    folder: Path,
    paths: Sequence[Path],
    checkpoint: CheckpointChoice = "newest",
    maps: Path | None = None,
) -> Iterator[tuple[Path, list[Guess] | InputError]]:
    """Classifies image files, one after another.

    Args:
        folder: folder of the run.
        paths: paths of the images; an image that cannot be classified does not stop the others.
        checkpoint: the newest checkpoint, or the one with the highest top-1 accuracy.
        maps: folder for the figures of source weights; see :func:`map_file`. Input files, and
            figures of other images, are never overwritten. None writes no figures.

    Returns:
        Each path with its five most probable classes or its error, as soon as it is done.

    Raises:
        CheckpointError: ``folder`` holds no run of this task, or it cannot be read.
        ConfigError: ``maps`` is given, and the downsampler of the run is not CARAFE++.
    """
    run, names = load_classifier(folder, checkpoint)
    guess = classifier(run, names)
    if maps is not None:
        check_has_maps(run.config, folder)
        draw = map_drawer(run)
    outputs = PictureOutputs(paths)

    def guess_file(path: Path) -> list[Guess]:
        image = open_picture(path, f"image {path}")
        if maps is not None:
            outputs.check(path, map_file(maps, path))
        try:
            guesses = guess(image)
        except InputError as error:
            raise InputError(f"image {path}: {error}") from error
        if maps is not None:
            crop = evaluation_crop(to_rgb(image), run.config.data)
            outputs.write(path, map_file(maps, path), draw(crop, printable(path.name)))
        return guesses

    return predict_each(paths, guess_file)


def map_file(folder: Path, image: Path) -> Path:
    """Returns the file of an image's figure of source weights, ``NAME-maps-down.png``.

    Args:
        folder: folder of the figures.
        image: path of the image.
    """
    return folder / f"{image.stem}-maps-down.png"


def print_predictions(
    run: Path,
    images: Sequence[Path],
    checkpoint: CheckpointChoice = "newest",
    maps: Path | None = None,
) -> None:
    """Prints the five most probable classes of each image.

    Args:
        run: folder of the run.
        images: paths of the images, at least one.
        checkpoint: the newest checkpoint, or the one with the highest top-1 accuracy.
        maps: folder for the figures of source weights; None writes no figures.

    Raises:
        CheckpointError: ``run`` holds no run of this task, or it cannot be read.
        ConfigError: ``images`` is empty, or ``maps`` is given, and the downsampler of the run is
            not CARAFE++.
        SystemExit: after the last image, with code 2, if an image could not be classified.
    """
    check(bool(images), "images", "one or more", list(images))
    report(predict(run, images, checkpoint, maps), functools.partial(_show, maps))


def _show(maps: Path | None, image: Path, guesses: Sequence[Guess]) -> None:
    print(printable(image if maps is None else f"{image} -> {map_file(maps, image)}"))
    for guess in guesses:
        print(f"  {guess.probability:7.2%}  {guess.name}")
