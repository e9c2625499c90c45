"""Composes scenes of overlapping cutouts, with a mask of the visible part of each object."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

# Lower limits of the visible part of an object: a share of its pixels, and a number of pixels.
SMALLEST_VISIBLE_SHARE = 0.25
FEWEST_PIXELS = 16

_OPAQUE = 128  # alpha from which a pixel counts as opaque, of 255
_ATTEMPTS = 20


@dataclass(frozen=True)
class Scene:
    """An image and the objects in it.

    Attributes:
        image: RGB image.
        labels: labels of the n objects, from the farthest to the nearest.
        masks: visible part of each object, bool ``[n, height, width]``; masks do not overlap.
    """

    image: Image.Image
    labels: tuple[int, ...]
    masks: Bool[np.ndarray, "n height width"]


def compose(
    rng: np.random.Generator,
    background: UInt8[np.ndarray, "height width 3"],
    cutouts: Sequence[Sequence[Image.Image]],
    count: int,
    sizes: tuple[int, int],
) -> Scene:
    """Pastes cutouts at random positions, randomly mirrored; later ones cover earlier ones.

    At least 16 pixels, and at least a quarter, of each object are visible. If an object would have
    less, or would cover too much of another, another size and position are tried. If none is found
    after 20 attempts, the object is left out, so that every object in the image has a mask.

    Args:
        rng: random number generator.
        background: RGB pixels of the size of the scene, uint8 ``[height, width, 3]``.
        cutouts: cutouts of each class, at least one; RGBA images without empty margins.
        count: the largest number of objects.
        sizes: lower and upper limit of the longer side of an object, in pixels. The logarithm of
            the size is uniformly distributed; an object never exceeds the image.

    Returns:
        The scene. A pixel belongs to the nearest object that is at least half opaque at the pixel.
    """
    height, width, _ = background.shape
    image = Image.fromarray(background)
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    labels: list[int] = []
    masks: list[Bool[np.ndarray, "height width"]] = []
    areas: list[int] = []
    for _ in range(count):
        label = int(rng.integers(len(cutouts)))
        cutout = cutouts[label][int(rng.integers(len(cutouts[label])))]
        if rng.random() < 0.5:
            cutout = ImageOps.mirror(cutout)
        for _ in range(_ATTEMPTS):
            pasted = _resized(cutout, np.exp(rng.uniform(*np.log(sizes))), (width, height))
            left = int(rng.integers(width - pasted.width, endpoint=True))
            top = int(rng.integers(height - pasted.height, endpoint=True))
            opaque = np.asarray(pasted.getchannel("A")) >= _OPAQUE  # [h, w]
            window = np.s_[top : top + pasted.height, left : left + pasted.width]
            if _all_visible(masks, areas, opaque, window):
                for mask in masks:
                    mask[window] &= ~opaque
                mask = np.zeros((height, width), bool)
                mask[window] = opaque
                image.paste(pasted, (left, top), pasted)
                labels.append(label)
                masks.append(mask)
                areas.append(int(opaque.sum()))
                break
    return Scene(image, tuple(labels), np.array(masks, bool).reshape(-1, height, width))


def _resized(cutout: Image.Image, longer: float, limits: tuple[int, int]) -> Image.Image:
    scale = min(longer / max(cutout.size), *(np.array(limits) / cutout.size))
    width, height = (max(1, round(length * scale)) for length in cutout.size)
    return cutout.resize((width, height), Image.Resampling.LANCZOS)


def _all_visible(
    masks: Sequence[Bool[np.ndarray, "height width"]],
    areas: Sequence[int],
    opaque: Bool[np.ndarray, "h w"],
    window: tuple[slice, slice],
) -> bool:
    visible = (mask.sum() - (mask[window] & opaque).sum() for mask in masks)
    return opaque.sum() >= FEWEST_PIXELS and all(
        pixels >= max(FEWEST_PIXELS, SMALLEST_VISIBLE_SHARE * area)
        for pixels, area in zip(visible, areas, strict=True)
    )
