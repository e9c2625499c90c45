"""Class maps of images at their original size, from the logits of a network.

The logits are resized bilinearly to the size of the image. The mean of the softmax over several
views of the image decides, as in the official implementation of UperNet.

Images have many different sizes. Therefore a class map is computed in tiles of one shape, and the
size of the image is an argument of the compiled program: it is compiled once for the shapes of the
logits, and its memory does not depend on the size of the image.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

TILE = 256  # side of a tile in pixels

# Indices of interpolation are computed exactly with 32 bits.
_LARGEST = 2**31 - 1


class Tiles(NamedTuple):
    """A class map whose tiles the device may still be computing.

    Attributes:
        tiles: rows of tiles, each uint8 ``[TILE, TILE]``.
        height: height of the image in pixels.
        width: width of the image in pixels.
    """

    tiles: list[list[jax.Array]]
    height: int
    width: int

    def joined(self) -> UInt8[np.ndarray, "height width"]:
        """Waits for the tiles, and puts them together on the host."""
        rows = jax.device_get(self.tiles)
        return np.block(rows)[: self.height, : self.width]


def class_map(
    views: Sequence[Float[Array, "batch _h _w classes"]], example: int, height: int, width: int
) -> Tiles:
    """Starts to compute the class of each pixel of an image, on the device of the logits.

    Args:
        views: logits of each view of a batch, ``[b, h, w, C]`` with at most 255 classes; h and w
            may differ between views. The logits of mirrored views are mirrored back.
        example: number of the image in the batch.
        height: height of the image in pixels.
        width: width of the image in pixels.

    Returns:
        Tiles of the map of classes with the highest mean probability; of equal classes the lowest.
        The tiles are undefined if the logits are not finite; see :func:`is_finite`.

    Raises:
        ValueError: ``views`` is empty, the logits have more than 255 classes, or a side of the
            image is too long.
    """
    if not views:
        raise ValueError("views must have at least one view, got none")
    if (classes := views[0].shape[-1]) > 255:
        raise ValueError(f"views must have at most 255 classes, got {classes}")
    for side, axis in ((height, 1), (width, 2)):
        longest = max(view.shape[axis] for view in views)
        if not 1 <= side <= _LARGEST // (2 * longest) - TILE:
            raise ValueError(f"height and width must be positive and moderate, got {side}")
    size = np.array([height, width], np.int32)
    tiles = [
        [
            _tile(tuple(views), np.int32(example), size, np.array([top, left], np.int32))
            for left in range(0, width, TILE)
        ]
        for top in range(0, height, TILE)
    ]
    return Tiles(tiles, height, width)


def is_finite(views: Sequence[Float[Array, "batch _h _w classes"]]) -> Bool[Array, " batch"]:
    """Whether all logits of each image are finite.

    Args:
        views: logits of each view, ``[b, h, w, C]``.
    """
    finite = [jnp.isfinite(view).all(axis=(1, 2, 3)) for view in views]
    return functools.reduce(jnp.logical_and, finite)


@jax.jit
def _tile(
    views: tuple[jax.Array, ...], example: jax.Array, size: jax.Array, origin: jax.Array
) -> UInt8[Array, "tile tile"]:
    """The class map from ``origin`` on; rows and columns beyond the image repeat its last ones."""
    resized = [_resized(view.astype(jnp.float32), example, size, origin) for view in views]
    if len(resized) > 1:  # softmax does not change the order of the classes of one view
        resized = [sum(map(jax.nn.softmax, resized[1:]), start=jax.nn.softmax(resized[0]))]
    return jnp.argmax(resized[0], axis=-1).astype(jnp.uint8)


def _resized(
    logits: Float[Array, "batch h w classes"],
    example: Int[Array, ""],
    size: Int[Array, "2"],
    origin: Int[Array, "2"],
) -> Float[Array, "tile tile classes"]:
    """A tile of the logits of an image, resized bilinearly; gathers only the pixels that it needs.

    The weights depend only on the position in the image, not on the tile.
    """
    above, below, down = _neighbours(logits.shape[1], size[0], origin[0])
    left, right, across = _neighbours(logits.shape[2], size[1], origin[1])
    down, across = down[:, None, None], across[None, :, None]
    take = functools.partial(jnp.take, mode="clip")
    rows = _between(logits[example, above], logits[example, below], down)  # [tile, w, C]
    return _between(take(rows, left, axis=1), take(rows, right, axis=1), across)


def _neighbours(
    count: int, side: Int[Array, ""], first: Int[Array, ""]
) -> tuple[Int[Array, " tile"], Int[Array, " tile"], Float[Array, " tile"]]:
    """For each position from ``first`` on: indices of the logits on both sides, and a weight.

    Pixels have their centres at halves (align_corners=False); beyond the outer centres the outer
    logits are repeated. The weight is the weight of the second index.
    """
    position = jnp.minimum(first + jnp.arange(TILE, dtype=jnp.int32), side - 1)
    # (position + 1/2) * count / side - 1/2, as an exact fraction
    numerator, denominator = (2 * position + 1) * count - side, 2 * side
    numerator = jnp.clip(numerator, 0, denominator * (count - 1))
    before = numerator // denominator
    weight = (numerator % denominator).astype(jnp.float32) / denominator.astype(jnp.float32)
    return before, jnp.minimum(before + 1, count - 1), weight


def _between(first: jax.Array, second: jax.Array, weight: jax.Array) -> jax.Array:
    return first * (1 - weight) + second * weight
