"""Makes the hole in a user's image from a mask file, a box, or random brush strokes."""

import dataclasses
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from experiments.data.pictures import is_opaque, open_picture, to_rgb, visible_files
from experiments.engine.errors import InputError
from experiments.inpainting.data.masks import free_form_mask

_WHITE = 128  # lowest grey value in the hole

Box = tuple[int, int, int, int]
Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class HoleChoice:
    """The source of the holes; exactly one attribute is given.

    Attributes:
        mask: mask file for all images, or folder with a mask of the same stem for each image.
        box: box for all images: left, top, width and height, in pixels.
        brush_seed: seed of random brush strokes.
    """

    mask: Path | None = None
    box: Box | None = None
    brush_seed: int | None = None

    def __post_init__(self) -> None:
        """Raises ``InputError`` if no attribute or more than one is given."""
        given = [name for name, value in vars(self).items() if value is not None]
        if len(given) != 1:
            raise InputError(
                "expected one of mask, box and brush_seed, got " + (" and ".join(given) or "none")
            )

    def files(self) -> list[Path]:
        """The mask files."""
        if self.mask is None:
            return []
        return visible_files(self.mask) if self.mask.is_dir() else [self.mask]

    def hole(self, picture: Path, size: Size, named: bool) -> Bool[np.ndarray, "h w"]:
        """The hole in an image.

        Args:
            picture: path of the image.
            size: height and width of the image in pixels.
            named: whether brush strokes also depend on the file's name.

        Raises:
            InputError: the mask is missing, or the hole cannot be used.
        """
        if self.mask is not None:
            return hole_from_file(_mask_file(self.mask, picture), size)
        if self.box is not None:
            return hole_from_box(self.box, size)
        assert self.brush_seed is not None
        return hole_from_brush(self.brush_seed, size, picture.name if named else None)


def check_hole(mask: Bool[np.ndarray, "h w"], name: str) -> None:
    """Raises ``InputError``, which begins with ``name``, if the mask is all False or all True."""
    if not mask.any():
        raise InputError(f"{name} has no hole")
    if mask.all():
        raise InputError(f"{name} is all hole: no pixel of the image is left to fill it from")


def hole_from_file(path: Path, size: Size) -> Bool[np.ndarray, "h w"]:
    """Reads a mask. The hole is white: at least half of the range.

    A mask with transparent pixels is refused. It may be a hole painted in
    white on a transparent background, or an image whose hole has been erased, as in image editors
    and some services. These two have opposite meanings, and both occur.

    Args:
        path: opaque image file with 8 bits for each channel; colours are converted to grey.
        size: height and width of the image to fill, in pixels.

    Raises:
        InputError: the mask cannot be read, has a different size or transparent pixels, or is all
            hole or without a hole.
    """
    name = f"mask {path}"
    opened = open_picture(path, name)
    if (opened.height, opened.width) != size:
        raise InputError(
            f"{name} must have the size of the image, {size[1]}x{size[0]}, got "
            f"{opened.width}x{opened.height}"
        )
    if not is_opaque(opened):
        raise InputError(
            f"{name} must be opaque, got transparent pixels, which have two possible meanings: "
            "either the white, opaque pixels are the hole, or the transparent ones. Save the mask "
            "without transparency, white in the hole and black outside it"
        )
    grey = np.asarray(to_rgb(opened).convert("L"))
    if grey.max() < _WHITE:
        raise InputError(
            f"{name} has no hole: pixels in the hole must be white ({_WHITE} or more of 255), got "
            f"at most {grey.max()}"
        )
    hole = grey >= _WHITE
    check_hole(hole, name)
    return hole


def hole_from_box(box: Box, size: Size) -> Bool[np.ndarray, "h w"]:
    """Makes a rectangular hole.

    Args:
        box: left, top, width and height of the hole, in pixels.
        size: height and width of the image in pixels.

    Raises:
        InputError: the box is empty, does not lie within the image, or covers the whole image.
    """
    x, y, width, height = box
    if width < 1 or height < 1:
        raise InputError(f"box must be at least 1x1 pixels, got {width}x{height}")
    if x < 0 or y < 0 or x + width > size[1] or y + height > size[0]:
        raise InputError(
            f"box must lie within the image, {size[1]}x{size[0]}, got {width}x{height} at {x}, {y}"
        )
    hole = np.zeros(size, bool)
    hole[y : y + height, x : x + width] = True
    check_hole(hole, "the box")
    return hole


def hole_from_brush(seed: int, size: Size, name: str | None = None) -> Bool[np.ndarray, "h w"]:
    """Draws random brush strokes; equal arguments result in equal holes.

    Args:
        seed: seed of the strokes, at least 0.
        size: height and width of the image in pixels.
        name: name of the image, if each image is to have its own hole.

    Raises:
        InputError: the seed is negative, or the image is so small that the hole covers it.
    """
    if seed < 0:
        raise InputError(f"the brush's seed must be at least 0, got {seed}")
    entropy = seed if name is None else (seed, zlib.crc32(name.encode(errors="surrogateescape")))
    hole = free_form_mask(np.random.default_rng(entropy), *size)
    check_hole(hole, "the brush's hole")
    return hole


def _mask_file(mask: Path, picture: Path) -> Path:
    if not mask.is_dir():
        return mask
    found = [path for path in visible_files(mask) if path.stem == picture.stem]
    if len(found) != 1:
        names = " and ".join(path.name for path in found) or "none"
        raise InputError(f"folder {mask} must contain one mask {picture.stem}.*, got {names}")
    return found[0]
