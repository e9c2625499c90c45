"""Where the hole of a user's picture comes from: a mask file, a box, or a brush."""

import dataclasses
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from experiments.data.pictures import is_opaque, open_picture, to_rgb, visible_files
from experiments.engine.errors import InputError
from experiments.inpainting.data.masks import free_form_mask

_WHITE = 128

Box = tuple[int, int, int, int]
Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class HoleChoice:
    """Where holes come from; one of the three is given.

    Attributes:
        mask: a mask file for all pictures, or a folder that has for each one of the same stem.
        box: for all pictures.
        brush_seed: of brush strokes.
    """

    mask: Path | None = None
    box: Box | None = None
    brush_seed: int | None = None

    def __post_init__(self) -> None:
        """Raises ``InputError`` for none, or several."""
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
        """The hole of a picture.

        Args:
            picture: its path.
            size: its height and width.
            named: the brush's strokes depend on the file's name too.

        Raises:
            InputError: there is none, or it cannot be used.
        """
        if self.mask is not None:
            return hole_of_file(_mask_of(self.mask, picture), size)
        if self.box is not None:
            return hole_of_box(self.box, size)
        assert self.brush_seed is not None
        return hole_of_brush(self.brush_seed, size, picture.name if named else None)


def check_hole(mask: Bool[np.ndarray, "h w"], name: str) -> None:
    """Raises ``InputError``, which begins with ``name``, if there is no hole or nothing else."""
    if not mask.any():
        raise InputError(f"{name} has no hole")
    if mask.all():
        raise InputError(f"{name} is all hole: nothing of the image is left to fill from")


def hole_of_file(path: Path, size: Size) -> Bool[np.ndarray, "h w"]:
    """Reads a mask: white, from half of the range on, is the hole.

    A mask with transparent pixels is refused, whatever its colours: it may have been painted white
    on transparent ground, or be a picture whose hole has been erased, as image editors and some
    services take it. The two readings are each other's opposite, and both occur.

    Args:
        path: an image file of any mode of 8 bits a channel, opaque; colours become grey.
        size: height and width of the picture that it belongs to.

    Raises:
        InputError: it cannot be read, has another size or transparent pixels, or has no hole or
            nothing else.
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
            f"{name} must be opaque, got transparent pixels, which can mean two things: that the "
            "hole is what is white and opaque, or that it is what is transparent. Save it without "
            "transparency, white in the hole and black elsewhere"
        )
    grey = np.asarray(to_rgb(opened).convert("L"))
    if grey.max() < _WHITE:
        raise InputError(
            f"{name} has no hole: white ({_WHITE} or more of 255) is the hole, got at most "
            f"{grey.max()}"
        )
    hole = grey >= _WHITE
    check_hole(hole, name)
    return hole


def hole_of_box(box: Box, size: Size) -> Bool[np.ndarray, "h w"]:
    """Makes a rectangular hole.

    Args:
        box: x and y of its upper left corner, from the picture's, width and height; in pixels.
        size: height and width of the picture.

    Raises:
        InputError: it is empty, does not lie within the picture, or takes all of it.
    """
    x, y, width, height = box
    if width < 1 or height < 1:
        raise InputError(f"box must be at least 1x1 pixel wide and high, got {width}x{height}")
    if x < 0 or y < 0 or x + width > size[1] or y + height > size[0]:
        raise InputError(
            f"box must lie within the image, {size[1]}x{size[0]}, got {width}x{height} at {x}, {y}"
        )
    hole = np.zeros(size, bool)
    hole[y : y + height, x : x + width] = True
    check_hole(hole, "the box")
    return hole


def hole_of_brush(seed: int, size: Size, name: str | None = None) -> Bool[np.ndarray, "h w"]:
    """Draws brush strokes; the same arguments give the same hole.

    Args:
        seed: at least 0.
        size: height and width of the picture.
        name: of the picture, if each is to have its own hole.

    Raises:
        InputError: the seed is negative, or the picture too small for a hole and something beside
            it.
    """
    if seed < 0:
        raise InputError(f"the brush's seed must be at least 0, got {seed}")
    entropy = seed if name is None else (seed, zlib.crc32(name.encode(errors="surrogateescape")))
    hole = free_form_mask(np.random.default_rng(entropy), *size)
    check_hole(hole, "the brush's hole")
    return hole


def _mask_of(mask: Path, picture: Path) -> Path:
    if not mask.is_dir():
        return mask
    found = [path for path in visible_files(mask) if path.stem == picture.stem]
    if len(found) != 1:
        names = " and ".join(path.name for path in found) or "none"
        raise InputError(f"folder {mask} must hold one mask {picture.stem}.*, got {names}")
    return found[0]
