"""Scenes of cutouts that cover each other, with the mask of what is seen of each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

# Of an object, in shares of all of it, and in pixels.
LEAST_SEEN = 0.25
FEWEST_PIXELS = 16

_OPAQUE = 128  # of an alpha of 255
_ATTEMPTS = 20


@dataclass(frozen=True)
class Scene:
    """An image and the objects in it.

    Attributes:
        image: RGB.
        labels: of the n objects, from the farthest to the nearest.
        masks: of what is seen of each object; no pixel belongs to two.
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
    """Pastes cutouts at random places, mirrored at random; later ones hide earlier ones.

    Each object has at least 16 pixels to see, and a quarter of all it has: where it would not, or
    would hide too much of another, another size and place are tried. One for which none is found
    is left out, so that all that is in the image is in the masks as well.

    Args:
        rng: source of randomness.
        background: as large as the image is to be.
        cutouts: of each class, at least one; RGBA without empty margins.
        count: of objects, at most.
        sizes: smallest and largest longer side of an object, in pixels; they are spread evenly in
            their logarithm, and objects are never larger than the image.

    Returns:
        The scene. A pixel belongs to the nearest object that is at least half opaque there.
    """
    height, width, _ = background.shape
    image = Image.fromarray(background)
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    labels: list[int] = []
    masks: list[Bool[np.ndarray, "height width"]] = []
    wholes: list[int] = []
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
            if _all_are_seen(masks, wholes, opaque, window):
                for mask in masks:
                    mask[window] &= ~opaque
                mask = np.zeros((height, width), bool)
                mask[window] = opaque
                image.paste(pasted, (left, top), pasted)
                labels.append(label)
                masks.append(mask)
                wholes.append(int(opaque.sum()))
                break
    return Scene(image, tuple(labels), np.array(masks, bool).reshape(-1, height, width))


def _resized(cutout: Image.Image, longer: float, limits: tuple[int, int]) -> Image.Image:
    scale = min(longer / max(cutout.size), *(np.array(limits) / cutout.size))
    width, height = (max(1, round(length * scale)) for length in cutout.size)
    return cutout.resize((width, height), Image.Resampling.LANCZOS)


def _all_are_seen(
    masks: Sequence[Bool[np.ndarray, "height width"]],
    wholes: Sequence[int],
    opaque: Bool[np.ndarray, "h w"],
    window: tuple[slice, slice],
) -> bool:
    seen = (mask.sum() - (mask[window] & opaque).sum() for mask in masks)
    return opaque.sum() >= FEWEST_PIXELS and all(
        pixels >= max(FEWEST_PIXELS, LEAST_SEEN * whole)
        for pixels, whole in zip(seen, wholes, strict=True)
    )
