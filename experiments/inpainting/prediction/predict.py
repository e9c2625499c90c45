"""Fills holes in a user's own images, single files or whole folders, with a trained run."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.data.picture_outputs import PictureOutputs
from experiments.data.pictures import is_opaque, open_picture, to_rgb, visible_files
from experiments.engine.errors import InputError
from experiments.engine.predictions import predict_each, report
from experiments.engine.settings import CheckpointChoice
from experiments.engine.text import printable
from experiments.inpainting.prediction.holes import HoleChoice
from experiments.inpainting.prediction.inpainter import load_inpainter
from experiments.inpainting.prediction.maps import directions, draw_maps

_COLOUR_SPACE = slice(16, 20)  # in the header of an ICC profile


class FilledFile(NamedTuple):
    """The file of a filled image.

    Attributes:
        output: file of the filled image.
        note: message about metadata of the original that was dropped, if any.
        maps: files of the figures of source weights.
    """

    output: Path
    note: str | None
    maps: tuple[Path, ...] = ()


class Picture(NamedTuple):
    """An image that has been read.

    Attributes:
        pixels: RGB pixels, ``[H, W, 3]``.
        profile: ICC profile of the image, if it has one for RGB.
        note: message about a profile that was dropped, if any.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    profile: bytes | None
    note: str | None


def read_picture(path: Path) -> Picture:
    """Reads an image as RGB, and applies its EXIF orientation.

    Raises:
        InputError: the file is missing, not an image, truncated, animated or too large, or has more
            than 8 bits for each channel; or it has transparent pixels, whose colour is undefined.
    """
    image = open_picture(path, f"image {path}")
    if not is_opaque(image):
        raise InputError(f"image {path} must be opaque, got transparent pixels: flatten it first")
    profile, note = image.info.get("icc_profile"), None
    if "icc_profile" in image.info and not profile:
        note = f"the colour profile of {path} is dropped: it cannot be read"
    elif profile and profile[_COLOUR_SPACE] != b"RGB ":
        profile, note = None, f"the colour profile of {path} is dropped: it is not for RGB"
    return Picture(np.asarray(to_rgb(image)), profile or None, note)


def pictures_in(source: Path) -> list[Path]:
    """The files to fill: ``source``, or if it is a folder, its visible files sorted by name.

    Raises:
        InputError: the folder has no files.
    """
    if not source.is_dir():
        return [source]
    found = visible_files(source)
    if not found:
        raise InputError(f"folder {source} must contain images, got no files")
    return found


def predict(
    run: Path,
    source: Path,
    holes: HoleChoice,
    output: Path,
    working_side: int | None = None,
    full_size: bool = False,
    checkpoint: CheckpointChoice = "newest",
    maps: bool = False,
) -> Iterator[tuple[Path, FilledFile | InputError]]:
    """Fills the holes in an image, or in all images of a folder, one after the other.

    Input files, and files written for other images, are never overwritten.

    Args:
        run: folder of a run of this task.
        source: image file, or folder of image files, without its subfolders.
        holes: source of the holes. Each file of a folder has its own brush strokes.
        output: PNG file of the filled image. If ``source`` is a folder: folder of the filled
            images, PNG files with the same stems.
        working_side: shorter side, in pixels, to which larger images are scaled down before they
            are filled; the fill is scaled up again. By default it is the side of the training
            images.
        full_size: whether images are filled at their own size instead, tile by tile.
        checkpoint: the newest checkpoint, or the best, which has the highest PSNR so far.
        maps: whether figures of the source weights are written beside each filled image, with
            ``-maps-down.png`` and ``-maps-up.png`` in place of ``.png``. They show the image at the
            size at which the network reads it.

    Returns:
        An iterator over the image files. It yields each file when it is done, with the file that
        was written or with an error. An error does not stop the others.

    Raises:
        InputError: ``output`` is not a PNG file, or for a folder not a folder; or ``source`` is an
            empty folder.
        CheckpointError: the run cannot be read.
        ConfigError: ``maps`` is true, and the run has no maps; see
            :func:`experiments.inpainting.pathways.check_has_pathways`.
    """
    pictures = pictures_in(source)
    batch = source.is_dir()
    if batch:
        if output.exists() and not output.is_dir():
            raise InputError(f"output must be a folder, because the input is one, got {output}")
    elif output.suffix.lower() != ".png" or output.is_dir():
        raise InputError(f"output must be a file whose name ends in .png, got {output}")
    inpainter = load_inpainter(run, working_side, full_size, checkpoint)
    outputs = PictureOutputs((*pictures, *holes.files()))

    drawn = directions(inpainter.generator_config) if maps else ()

    def fill(path: Path) -> FilledFile:
        target = output / f"{path.stem}.png" if batch else output
        figures = {each: target.with_name(f"{target.stem}-maps-{each}.png") for each in drawn}
        for file in (target, *figures.values()):
            outputs.check(path, file)
        picture = read_picture(path)
        try:
            hole = holes.hole(path, picture.pixels.shape[:2], named=batch)
            shown = {}
            if drawn:
                traced = inpainter.trace(picture.pixels, hole)
                shown = {each: draw_maps(traced, each, printable(path.name)) for each in drawn}
            filled = inpainter(picture.pixels, hole)
        except InputError as error:
            raise InputError(f"image {path}: {error}") from error
        outputs.write(path, target, filled, picture.profile)
        for direction, figure in shown.items():
            outputs.write(path, figures[direction], figure)
        return FilledFile(target, picture.note, tuple(figures.values()))

    return predict_each(pictures, fill)


def print_predictions(
    run: Path,
    source: Path,
    holes: HoleChoice,
    output: Path | None = None,
    working_side: int | None = None,
    full_size: bool = False,
    checkpoint: CheckpointChoice = "newest",
    maps: bool = False,
) -> None:
    """Fills the hole in an image, or in all images of a folder, and prints the written files.

    Args:
        run: folder of a run of this task.
        source: image file, or folder of image files, without its subfolders.
        holes: source of the holes. Each file of a folder has its own brush strokes.
        output: PNG file of the filled image, by default SOURCE-filled.png. If ``source`` is a
            folder: folder of the filled images, by default SOURCE-filled.
        working_side: shorter side, in pixels, to which larger images are scaled down before they
            are filled; the fill is scaled up again. By default it is the side of the training
            images.
        full_size: whether images are filled at their own size instead, tile by tile.
        checkpoint: the newest checkpoint, or the best, which has the highest PSNR so far.
        maps: whether figures of the source weights are written beside each filled image, with
            ``-maps-down.png`` and ``-maps-up.png`` in place of ``.png``.

    Raises:
        InputError: ``output`` is not a PNG file, or for a folder not a folder; or ``source`` is an
            empty folder.
        CheckpointError: the run cannot be read.
        ConfigError: ``maps`` is true, and the run has no maps; see
            :func:`experiments.inpainting.pathways.check_has_pathways`.
        SystemExit: with code 2, after the last image, if any image was not filled.
    """
    batch = source.is_dir()
    if output is None:
        whole = source.resolve() if batch else source  # "." has no name
        output = whole.with_name(f"{whole.name}-filled" if batch else f"{whole.stem}-filled.png")
    total = len(pictures_in(source))
    outcomes = predict(run, source, holes, output, working_side, full_size, checkpoint, maps)
    report(_counted(outcomes, total) if batch else outcomes, _show)


def _show(picture: Path, filled: FilledFile) -> None:
    print(*map(printable, (filled.output, *filled.maps)), sep="\n")
    if filled.note:
        print(printable(filled.note), file=sys.stderr)


def _counted(
    outcomes: Iterator[tuple[Path, FilledFile | InputError]], total: int
) -> Iterator[tuple[Path, FilledFile | InputError]]:
    """Shows a progress bar, and after the last image prints the images that were not filled."""
    failed = []
    with _progress() as progress:
        bar = progress.add_task("filling", total=total)
        for picture, outcome in outcomes:
            yield picture, outcome
            if isinstance(outcome, InputError):
                failed.append(printable(picture))
            progress.advance(bar)
    if failed:
        names = ", ".join(failed)
        print(f"error: {len(failed)} of {total} images were not filled: {names}", file=sys.stderr)


def _progress() -> Progress:
    console = Console()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        redirect_stderr=sys.stderr.isatty(),
    )
