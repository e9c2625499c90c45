"""Checks of arguments: bad ones raise an error that names the argument and what came."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from carafe_kernels.geometry import Geometry
from carafe_kernels.normalizers import NORMALIZERS

DTYPES = ("float16", "bfloat16", "float32", "float64")


def check_groups(groups: int, channels: int) -> None:
    """Raises ``ValueError`` unless ``groups`` divides ``channels``."""
    if channels % groups:
        raise ValueError(f"groups must divide the {channels} channels of x, got {groups}")


def check_normalizer(normalizer: str) -> None:
    """Raises ``ValueError`` unless ``normalizer`` is known."""
    if not isinstance(normalizer, str) or normalizer not in NORMALIZERS:
        raise ValueError(f"normalizer must be one of {sorted(NORMALIZERS)}, got {normalizer!r}")


def checked_array(name: str, array: Any) -> jax.Array:
    """Returns a rank 4 array of floats as it is, or raises ``ValueError``."""
    if not isinstance(array, jax.Array | np.ndarray):
        raise ValueError(f"{name} must be a JAX or NumPy array, got {type(array).__name__}")
    if array.dtype.name not in DTYPES or not array.dtype.isnative:
        raise ValueError(f"{name} must have one of the dtypes {DTYPES}, got {array.dtype}")
    if array.ndim != 4:
        raise ValueError(f"{name} must have rank 4, channels last, got shape {array.shape}")
    return jnp.asarray(array)


def checked_map(x: Any, geometry: Geometry) -> jax.Array:
    """Returns ``x``, or raises ``ValueError`` if no ``geometry`` could reassemble it."""
    x = checked_array("x", x)
    _, height, width, channels = x.shape
    if min(height, width, channels) < 1:
        raise ValueError(
            f"x must be [B, H, W, C] with H, W and C of at least 1, got shape {x.shape}"
        )
    check_groups(geometry.groups, channels)
    return x


def checked_logits(
    x: Any, logits: Any, geometry: Geometry, normalizer: str
) -> tuple[jax.Array, jax.Array]:
    """Returns both arrays, or raises ``ValueError`` if they or the normaliser do not fit."""
    check_normalizer(normalizer)
    x = checked_map(x, geometry)
    batch, height, width, _ = x.shape
    logits = checked_array("logits", logits)
    expected = (*map(geometry.cells, (height, width)), geometry.logit_channels)
    check_shape(
        "logits",
        logits,
        "[B, ceil(H / down), ceil(W / down), up**2 * groups * kernel_size**2]",
        (batch, *expected),
        x,
        geometry,
    )
    return x, logits


def check_shape(
    name: str,
    array: jax.Array,
    layout: str,
    expected: tuple[int, ...],
    x: jax.Array,
    geometry: Geometry,
) -> None:
    """Raises ``ValueError`` unless ``array`` has the shape that ``layout`` describes."""
    if array.shape != expected:
        raise ValueError(
            f"{name} must be {layout} = {expected} for x of shape {x.shape} and {geometry}, "
            f"got shape {array.shape}"
        )
