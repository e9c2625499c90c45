"""Converts pixels between bytes and the range of the networks."""

from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8


@overload
def to_unit(image: UInt8[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]: ...
@overload
def to_unit(image: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]: ...
def to_unit(image: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
    """Maps bytes to float32 in [-1, 1] (section 5.1)."""
    return image.astype(jnp.float32) / 127.5 - 1


def to_bytes(image: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Inverse of :func:`to_unit`, rounded and clipped."""
    return np.clip(np.round((np.asarray(image) + 1) * 127.5), 0, 255).astype(np.uint8)


def with_white_hole(
    image: UInt8[np.ndarray, "height width 3"], mask: Bool[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns an image with a white hole, which stands out in most photographs.

    Args:
        image: RGB image.
        mask: true in the hole.
    """
    return np.where(mask[..., None], np.uint8(255), image)
