"""Fills holes in a user's own pictures, files or folders of them, with a trained run."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import tyro
from jaxtyping import UInt8
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.data.pictures import PictureError, open_picture, to_rgb, visible_files
from experiments.engine.files import write_atomically
from experiments.inpainting.prediction.holes import HoleChoice, InputError
from experiments.inpainting.prediction.inpainter import Inpainter, load_inpainter

_COLOUR_SPACE = slice(16, 20)  # in the header of an ICC profile


class Result(NamedTuple):
    """What became of a picture.

    Attributes:
        picture: its file.
        outcome: the file that was written, or what is wrong.
        note: what the written file lacks of the picture, if anything.
    """

    picture: Path
    outcome: Path | InputError
    note: str | None = None


class Picture(NamedTuple):
    """A picture as it is filled.

    Attributes:
        pixels: ``[H, W, 3]``.
        profile: its ICC profile, if it has one for RGB.
        note: what else it had.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    profile: bytes | None
    note: str | None


def read_picture(path: Path) -> Picture:
    """Reads a picture as RGB, turned as its EXIF orientation says.

    Raises:
        InputError: see :func:`experiments.data.pictures.open_picture`; or it has transparent
            pixels, for which there is no colour.
    """
    try:
        image = open_picture(path, f"image {path}")
    except PictureError as error:
        raise InputError(str(error)) from error
    if image.has_transparency_data and not _is_opaque(image):
        raise InputError(f"image {path} must be opaque, got transparent pixels: flatten it first")
    profile, note = image.info.get("icc_profile"), None
    if profile and profile[_COLOUR_SPACE] != b"RGB ":
        profile, note = None, f"the colour profile of {path} is dropped: it is not of RGB"
    return Picture(np.asarray(to_rgb(image)), profile or None, note)


def pictures_in(source: Path) -> list[Path]:
    """The files to fill: ``source``, or if it is a folder all in it but hidden ones, by name.

    Raises:
        InputError: the folder has no files.
    """
    if not source.is_dir():
        return [source]
    found = visible_files(source)
    if not found:
        raise InputError(f"folder {source} must hold images, got no files")
    return found


def predict(
    run: Path,
    source: Path,
    holes: HoleChoice,
    output: Path,
    working_side: int | None = None,
    full_size: bool = False,
) -> Iterator[Result]:
    """Fills the holes of a picture, or of all in a folder, one after the other.

    No input file is ever written to, nor is a file that was written for another picture.

    Args:
        run: folder of a run of this task.
        source: a file of a picture, or a folder, the subfolders of which are left alone.
        holes: where they come from. In a folder each file has brush strokes of its own.
        output: the PNG to write; for a folder the folder of PNGs with the same stems.
        working_side: see :func:`experiments.inpainting.prediction.inpainter.load_inpainter`.
        full_size: see :func:`experiments.inpainting.prediction.inpainter.load_inpainter`.

    Returns:
        For each picture, as it is done, what became of it; one that fails does not stop the others.

    Raises:
        InputError: ``output`` does not name a PNG, or for a folder no folder; or ``source`` is an
            empty folder.
        CheckpointError: the run cannot be read.
    """
    pictures = pictures_in(source)
    batch = source.is_dir()
    if batch:
        if output.exists() and not output.is_dir():
            raise InputError(f"output must be a folder, as the input is, got {output}")
        outputs = [output / f"{picture.stem}.png" for picture in pictures]
    else:
        if output.suffix.lower() != ".png" or output.is_dir():
            raise InputError(f"output must be a file that ends in .png, got {output}")
        outputs = [output]
    inpainter = load_inpainter(run, working_side, full_size)
    return _predict_each(inpainter, pictures, holes, outputs, batch)


def _predict_each(
    inpainter: Inpainter,
    pictures: Sequence[Path],
    holes: HoleChoice,
    outputs: Sequence[Path],
    batch: bool,
) -> Iterator[Result]:
    inputs = {_identity(path) for path in (*pictures, *holes.files())} - {None}
    written: set[tuple[int, int] | None] = set()
    for path, output in zip(pictures, outputs, strict=True):
        try:
            # Names tell less: links and letter case lead several of them to one file.
            target = _identity(output)
            if target in inputs:
                raise InputError(f"image {path}: output {output} must be no input file")
            if target in written:
                raise InputError(
                    f"image {path}: output {output} must be free, got that of an image before"
                )
            note = _predict_one(inpainter, path, holes, output, batch)
        except InputError as error:
            yield Result(path, error)
        else:
            written.add(_identity(output))
            yield Result(path, output, note)


def _predict_one(
    inpainter: Inpainter, path: Path, holes: HoleChoice, output: Path, batch: bool
) -> str | None:
    picture = read_picture(path)
    try:
        hole = holes.hole(path, picture.pixels.shape[:2], named=batch)
        filled = Image.fromarray(inpainter(picture.pixels, hole))
    except InputError as error:
        raise InputError(f"image {path}: {error}") from error
    try:
        write_atomically(
            output, lambda file: filled.save(file, format="png", icc_profile=picture.profile)
        )
    except OSError as error:
        raise InputError(f"image {path}: output {output} cannot be written: {error}") from error
    return picture.note


def _is_opaque(image: Image.Image) -> bool:
    lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
    return lowest == 255


def _identity(path: Path) -> tuple[int, int] | None:
    """What two names of one file share; None if there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def predict_command(
    source: Annotated[Path, tyro.conf.Positional],
    run: Path,
    mask: Path | None = None,
    box: tuple[int, int, int, int] | None = None,
    brush_seed: int | None = None,
    output: Path | None = None,
    working_side: int | None = None,
    full_size: bool = False,
) -> None:
    """Fills the hole of a picture, or those of all pictures in a folder.

    The hole is given by a mask, a box or the seed of a brush.

    Args:
        source: a file that Pillow reads, of any size, or a folder of such files.
        run: folder of a trained run.
        mask: an image file of the same size, white (over 127 of 255) in the hole; or a folder that
            holds for each picture a mask of the same stem.
        box: the hole's left, top, width and height, in pixels.
        brush_seed: of random brush strokes; in a folder each picture has its own.
        output: the PNG to write, by default SOURCE-filled.png; for a folder the folder to write
            to, by default SOURCE-filled.
        working_side: larger pictures are scaled down so that their shorter side has so many pixels,
            and the fill is scaled back into the hole; by default the side of the images that the
            run was trained on, beyond which networks fill worse.
        full_size: fills pictures at their own size instead, tile by tile.
    """
    holes = HoleChoice(mask, box, brush_seed)
    batch = source.is_dir()
    if output is None:
        whole = source.resolve() if batch else source  # "." has no name
        output = whole.with_name(f"{whole.name}-filled" if batch else f"{whole.stem}-filled.png")
    total = len(pictures_in(source))
    failed = []
    with _progress(visible=batch) as progress:
        bar = progress.add_task("filling", total=total)
        for result in predict(run, source, holes, output, working_side, full_size):
            if isinstance(result.outcome, InputError):
                print(f"error: {result.outcome}", file=sys.stderr)
                failed.append(str(result.picture))
            else:
                print(result.outcome)
            if result.note:
                print(result.note, file=sys.stderr)
            progress.advance(bar)
    if failed and batch:
        names = ", ".join(failed)
        print(f"error: {len(failed)} of {total} images were not filled: {names}", file=sys.stderr)
    if failed:
        sys.exit(2)


def _progress(visible: bool) -> Progress:
    console = Console()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        disable=not visible or not console.is_terminal,
        redirect_stderr=sys.stderr.isatty(),
    )
