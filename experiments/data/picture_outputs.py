"""Writes pictures without overwriting inputs or other outputs."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from experiments.engine.errors import InputError
from experiments.engine.files import write_atomically


class PictureOutputs:
    """Writes PNG files, unless the file is an input or was written before.

    Files are compared, not names: links and letter case can give a file several names.

    Args:
        inputs: files that must not change; some may be missing.
    """

    def __init__(self, inputs: Iterable[Path]) -> None:
        self._inputs = _identities(inputs)
        self._written: set[tuple[int, int]] = set()

    def check(self, picture: Path, output: Path) -> None:
        """Checks that an output may be written, before the work of computing it is done.

        Args:
            picture: input from which the output is made, for the error message.
            output: path of the file to write.

        Raises:
            InputError: ``output`` is an input, or was written before.
        """
        target = _identities([output])
        if target & self._inputs:
            raise InputError(f"image {picture}: output {output} must not be an input file")
        if target & self._written:
            raise InputError(
                f"image {picture}: output {output} must not be the output of an earlier image"
            )

    def write(
        self,
        picture: Path,
        output: Path,
        pixels: UInt8[np.ndarray, "H W 3"],
        profile: bytes | None = None,
    ) -> None:
        """Writes a PNG file, atomically.

        Args:
            picture: input from which the output is made, for error messages.
            output: path of the file to write; its folder is created.
            pixels: RGB pixels, uint8 ``[H, W, 3]``.
            profile: ICC profile of the pixels, if they have one.

        Raises:
            InputError: ``output`` is an input, was written before, or cannot be written.
        """
        self._save(picture, output, Image.fromarray(pixels), icc_profile=profile)

    def write_indexed(
        self,
        picture: Path,
        output: Path,
        indices: UInt8[np.ndarray, "H W"],
        palette: UInt8[np.ndarray, "256 3"],
    ) -> None:
        """Writes a PNG file with a palette, atomically.

        Args:
            picture: input from which the output is made, for error messages.
            output: path of the file to write; its folder is created.
            indices: index of each pixel's colour in the palette, uint8 ``[H, W]``. The file stores
                the indices unchanged, with 8 bits each.
            palette: RGB colours, uint8 ``[256, 3]``.

        Raises:
            InputError: ``output`` is an input, was written before, or cannot be written.
        """
        image = Image.fromarray(indices)
        image.putpalette(palette.tobytes())
        self._save(picture, output, image)

    def _save(self, picture: Path, output: Path, image: Image.Image, **options: Any) -> None:
        self.check(picture, output)
        try:
            write_atomically(output, lambda file: image.save(file, format="png", **options))
        except OSError as error:
            raise InputError(
                f"image {picture}: output {output} cannot be written: {error}"
            ) from error
        self._written |= _identities([output])


def _identities(paths: Iterable[Path]) -> set[tuple[int, int]]:
    """Returns device and inode of the files that exist, which are the same for all their names."""
    found = set()
    for path in paths:
        with contextlib.suppress(OSError):
            status = os.stat(path)
            found.add((status.st_dev, status.st_ino))
    return found
