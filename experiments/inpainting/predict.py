"""Fills holes in a user's own image with a trained run."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

from experiments.data.crops import CropsConfig
from experiments.engine import config as configs
from experiments.engine.checkpoints import CheckpointError, restore_state
from experiments.engine.files import write_atomically
from experiments.inpainting.batches import to_bytes, to_unit
from experiments.inpainting.configs import InpaintingConfig
from experiments.inpainting.task import fill, initial_state, make_model

FillFunction = Callable[[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]], np.ndarray]

# What a network learned at one scale it can apply at that scale only.
_WORKING_SIDE = CropsConfig(name="").photograph_side


class InputError(ValueError):
    """An image or a mask that cannot be used."""


def load_run(folder: Path) -> tuple[InpaintingConfig, Any]:
    """Reads the config and the parameters of a run's newest checkpoint.

    Raises:
        CheckpointError: there is no run of this task in ``folder``, or it is damaged.
    """
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(f"{folder} holds no run: {path.name} is missing")
    try:
        config = configs.load(InpaintingConfig, path)
    except configs.ConfigError as error:
        raise CheckpointError(f"{folder} is no run of the inpainting task: {error}") from error
    abstract = jax.eval_shape(functools.partial(initial_state, config))
    return config, restore_state(folder / "checkpoints", abstract)["params"]


def fill_function(config: InpaintingConfig, params: Any) -> FillFunction:
    """A jit-compiled function from image and hole to the filled image, for any size.

    It is compiled anew for each size. Images whose shorter side is over 256 pixels, the scale of
    the training photographs, are filled at that scale, and the fill is scaled back into the hole:
    everything outside the hole stays as it was, to the bit.
    """
    jitted = jax.jit(functools.partial(fill, make_model(config)))

    def apply(
        image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]
    ) -> UInt8[np.ndarray, "h w 3"]:
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
    height, width = mask.shape
    scale = _WORKING_SIDE / min(height, width)
    if scale >= 1:
        return image, mask
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # A pixel that the hole touches is a hole; the box filter leaves no gap between pixels.
    coverage = Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX)
    # Nothing of the hole may bleed into what is seen.
    seen = np.where(mask[..., None], _mean_colour(image, mask), image).astype(np.uint8)
    small = Image.fromarray(seen).resize(size, Image.Resampling.BOX)
    return np.asarray(small), np.asarray(coverage) > 0


def _mean_colour(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return image[~mask].mean(axis=0)


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image as RGB, turned as its EXIF orientation says.

    Raises:
        InputError: the file is missing, no image, truncated, too large, or of a mode that has no
            plain conversion to 8 bits a channel.
    """
    image = _open(path, "image")
    if image.mode.startswith(("I", "F")):
        raise InputError(f"image {path} must have 8 bits a channel, got mode {image.mode}")
    return np.asarray(image.convert("RGB"))


def read_mask(path: Path, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Reads a mask: white (over half of the range) is the hole.

    Args:
        path: an image file of any 8-bit mode; colours become grey.
        size: height and width of the image that it belongs to.

    Raises:
        InputError: it cannot be read, has another size, or has no hole or nothing else.
    """
    mask = np.asarray(_open(path, "mask").convert("L")) > 127
    if mask.shape != size:
        raise InputError(
            f"mask {path} must have the size of the image, {size[1]}x{size[0]}, got "
            f"{mask.shape[1]}x{mask.shape[0]}"
        )
    if not mask.any():
        raise InputError(f"mask {path} has no hole: nothing in it is white")
    if mask.all():
        raise InputError(f"mask {path} is all hole: nothing of the image is left to fill from")
    return mask


def _open(path: Path, role: str) -> Image.Image:
    try:
        with Image.open(path) as opened:
            opened.load()
            return ImageOps.exif_transpose(opened)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{role} {path} cannot be read: {error}") from error


def predict(run: Path, image_path: Path, mask_path: Path, output: Path) -> None:
    """Fills the holes of an image file and writes a PNG.

    Args:
        run: folder of a run of this task.
        image_path: any format that Pillow reads.
        mask_path: same size, white in the hole.
        output: the PNG to write, atomically.

    Raises:
        InputError: the image or the mask cannot be used.
        CheckpointError: the run cannot be read.
    """
    image = read_image(image_path)
    mask = read_mask(mask_path, image.shape[:2])
    filled = fill_function(*load_run(run))(image, mask)
    write_atomically(output, lambda file: Image.fromarray(filled).save(file, format="png"))
