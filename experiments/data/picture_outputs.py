"""Pictures that a command writes: over no input, and not over each other."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from experiments.engine.errors import InputError
from experiments.engine.files import write_atomically


class PictureOutputs:
    """Writes PNG files, none of which is an input or has been written before.

    Files are compared rather than names: links and letter case give one file several names.

    Args:
        inputs: the files that must stay as they are; some may be missing.
    """

    def __init__(self, inputs: Iterable[Path]) -> None:
        self._inputs = _identities(inputs)
        self._written: set[tuple[int, int]] = set()

    def check(self, picture: Path, output: Path) -> None:
        """Checks that an output may be written, before the work that goes into it.

        Args:
            picture: the input that it is made from, which the error names.
            output: the file to write.

        Raises:
            InputError: ``output`` is an input, or has been written before.
        """
        target = _identities([output])
        if target & self._inputs:
            raise InputError(f"image {picture}: output {output} must be no input file")
        if target & self._written:
            raise InputError(
                f"image {picture}: output {output} must be free, got that of an image before"
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
            picture: the input that it is made from, which errors name.
            output: the file to write; its folder is created.
            pixels: RGB.
            profile: the ICC profile of the pixels, if they have one.

        Raises:
            InputError: ``output`` is an input, has been written before, or cannot be written.
        """
        self.check(picture, output)
        image = Image.fromarray(pixels)
        try:
            write_atomically(
                output, lambda file: image.save(file, format="png", icc_profile=profile)
            )
        except OSError as error:
            raise InputError(
                f"image {picture}: output {output} cannot be written: {error}"
            ) from error
        self._written |= _identities([output])


def _identities(paths: Iterable[Path]) -> set[tuple[int, int]]:
    """What all names of a file have in common, of the files that are there."""
    found = set()
    for path in paths:
        with contextlib.suppress(OSError):
            status = os.stat(path)
            found.add((status.st_dev, status.st_ino))
    return found
