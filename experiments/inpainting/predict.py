"""Fills holes in a user's own image with a trained run."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

from experiments.data.crops import PHOTOGRAPH_SIDE
from experiments.engine import runs
from experiments.engine.files import write_atomically
from experiments.inpainting.batches import to_bytes, to_unit
from experiments.inpainting.configs import InpaintingConfig
from experiments.inpainting.task import fill, initial_state, make_model

FillFunction = Callable[[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]], np.ndarray]


class InputError(ValueError):
    """An image or a mask that cannot be used."""


def load_run(folder: Path) -> tuple[InpaintingConfig, Any]:
    """Reads the config and the parameters of a run's newest checkpoint.

    Raises:
        CheckpointError: there is no run of this task in ``folder``, or it is damaged.
    """
    run = runs.load_run(folder, InpaintingConfig, initial_state, "inpainting")
    for message in run.damaged:
        print(f"{message}; the checkpoint of step {run.step} is used", file=sys.stderr)
    return run.config, run.state["params"]


def fill_function(config: InpaintingConfig, params: Any) -> FillFunction:
    """A jit-compiled function from image and hole to the filled image, for any size.

    It is compiled anew for each size. What a network learned at one scale it can apply at that
    scale only: images whose shorter side is over 256 pixels, the size of the training photographs,
    are filled at that size, and the fill is scaled back into the hole. Everything outside the hole
    stays as it was, to the bit.

    The function raises :class:`InputError` for arrays that are no image with a hole.
    """
    jitted = jax.jit(functools.partial(fill, make_model(config)))

    def apply(
        image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]
    ) -> UInt8[np.ndarray, "h w 3"]:
        if image.dtype != np.uint8 or mask.dtype != bool or image.shape != (*mask.shape, 3):
            raise InputError(
                "expected an image of bytes [H, W, 3] and a mask of booleans [H, W], got "
                f"{image.dtype} {image.shape} and {mask.dtype} {mask.shape}"
            )
        _check_hole(mask, "the mask")
        small_image, small_mask = _working_size(image, mask)
        filled = jitted(
            params,
            jnp.asarray(to_unit(small_image)[None]),
            jnp.asarray(small_mask[None, ..., None], jnp.float32),
        )
        result = Image.fromarray(to_bytes(filled[0]))
        if small_mask.shape != mask.shape:
            height, width = mask.shape
            result = result.resize((width, height), Image.Resampling.BICUBIC)
        return np.where(mask[..., None], np.asarray(result), image)

    return apply


def _working_size(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales down to the size of the training photographs; a smaller image stays as it is.

    A pixel of the small image is the mean of what is seen of its area, so nothing of the hole
    bleeds into it. It belongs to the hole if nothing of it is seen.
    """
    height, width = mask.shape
    scale = PHOTOGRAPH_SIDE / min(height, width)
    if scale >= 1:
        return image, mask
    size = round(width * scale), round(height * scale)

    def area_mean(values: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BOX))

    seen = (~mask).astype(np.float32)
    share = area_mean(seen)
    small_mask = share < 1e-6
    channels = [area_mean(image[..., c] * seen) / np.maximum(share, 1e-6) for c in range(3)]
    small = np.where(small_mask[..., None], 0, np.stack(channels, axis=-1))
    return np.clip(np.round(small), 0, 255).astype(np.uint8), small_mask


def _check_hole(mask: np.ndarray, name: str) -> None:
    if not mask.any():
        raise InputError(f"{name} has no hole: nothing in it is white")
    if mask.all():
        raise InputError(f"{name} is all hole: nothing of the image is left to fill from")


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image as RGB, turned as its EXIF orientation says.

    Raises:
        InputError: the file is missing, no image, truncated or too large, has more than 8 bits a
            channel, or has transparent pixels, for which there is no colour.
    """
    image = _open(path, "image")
    if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise InputError(f"image {path} must be opaque, got transparent pixels: flatten it first")
    return np.asarray(image.convert("RGB"))


def read_mask(path: Path, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Reads a mask: white (over half of the range) is the hole.

    Args:
        path: an image file of any 8-bit mode; colours become grey, transparent pixels black.
        size: height and width of the image that it belongs to.

    Raises:
        InputError: it cannot be read, has another size, or has no hole or nothing else.
    """
    opened = _open(path, "mask")
    if opened.has_transparency_data:
        black = Image.new("RGBA", opened.size, "black")
        opened = Image.alpha_composite(black, opened.convert("RGBA"))
    mask = np.asarray(opened.convert("L")) > 127
    if mask.shape != size:
        raise InputError(
            f"mask {path} must have the size of the image, {size[1]}x{size[0]}, got "
            f"{mask.shape[1]}x{mask.shape[0]}"
        )
    _check_hole(mask, f"mask {path}")
    return mask


def _open(path: Path, role: str) -> Image.Image:
    try:
        with Image.open(path) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{role} {path} cannot be read: {error}") from error
    if image.mode.startswith(("I", "F")):
        raise InputError(f"{role} {path} must have 8 bits a channel, got mode {image.mode}")
    return image


def predict(run: Path, image_path: Path, mask_path: Path, output: Path) -> None:
    """Fills the holes of an image file and writes a PNG.

    Args:
        run: folder of a run of this task.
        image_path: any format that Pillow reads.
        mask_path: same size, white in the hole.
        output: the PNG to write, atomically.

    Raises:
        InputError: the image or the mask cannot be used, or ``output`` does not name a PNG.
        CheckpointError: the run cannot be read.
    """
    if output.suffix.lower() != ".png" or output.is_dir():
        raise InputError(f"output must be a file that ends in .png, got {output}")
    image = read_image(image_path)
    mask = read_mask(mask_path, image.shape[:2])
    filled = fill_function(*load_run(run))(image, mask)
    write_atomically(output, lambda file: Image.fromarray(filled).save(file, format="png"))
