"""Checks of arguments. Errors name the argument, what was expected and what was given."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from carafe_kernels.geometry import Dimension, Geometry, Resize, positive_integer
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


def checked_array(
    name: str, array: Any, layout: str = "[..., H, W, C]", rank: int = 3
) -> jax.Array:
    """Returns an array of floats of rank ``rank`` or more, or raises ``ValueError``.

    Args:
        name: the name of the argument, for the error.
        array: a JAX array, a NumPy array, or an object with ``__jax_array__``, such as
            ``nnx.Param``.
        layout: the axes of the array, for the error.
        rank: smallest number of axes.
    """
    array = _as_array(name, array)
    if array.dtype.name not in DTYPES or not array.dtype.isnative:
        raise ValueError(f"{name} must have one of the dtypes {DTYPES}, got {array.dtype}")
    if array.ndim < rank:
        raise ValueError(
            f"{name} must be {layout}, of rank {rank} or more, got shape {array.shape}"
        )
    return jnp.asarray(array)


def _as_array(name: str, array: Any) -> jax.Array | np.ndarray:
    if not isinstance(array, jax.Array) and hasattr(array, "__jax_array__"):
        array = array.__jax_array__()
    if not isinstance(array, jax.Array | np.ndarray):
        raise ValueError(
            f"{name} must be a JAX or NumPy array, or have __jax_array__, "
            f"got {type(array).__name__}"
        )
    return array


def checked_input(x: Any, dtype: jax.typing.DTypeLike | None = None) -> jax.Array:
    """Returns the input of a layer in the dtype of its computation, or raises ``ValueError``.

    Args:
        x: the input, ``[..., H, W, C]``.
        dtype: the option of the layer. ``None`` keeps the dtype of ``x``. Otherwise ``x`` may also
            hold integers, such as the values of an image.
    """
    if dtype is not None:
        name = jnp.dtype(dtype).name
        if name not in DTYPES:
            raise ValueError(f"dtype must be None or one of the dtypes {DTYPES}, got {name}")
        x = _as_array("x", x)
        if x.dtype.name in DTYPES or jnp.issubdtype(x.dtype, jnp.integer):
            x = x.astype(name)
    x = checked_array("x", x)
    height, width, channels = x.shape[-3:]
    if not isinstance(channels, int):
        raise ValueError(f"x must have a known number of channels, got shape {x.shape}")
    # A symbolic size of an export may be any number, and JAX cannot always compare it.
    if any(isinstance(size, int) and size < 1 for size in (height, width, channels)):
        raise ValueError(
            f"x must be [..., H, W, C] with H, W and C of at least 1, got shape {x.shape}"
        )
    return x


def checked_offset_features(offset_features: Any, down: int) -> int:
    """Returns ``offset_features`` as a Python integer.

    Raises:
        ValueError: ``down`` is above 1, or ``offset_features`` is not an integer of at least 1.
    """
    if down != 1:
        raise ValueError(
            f"offset_features must be None if down is above 1, got {offset_features!r} and "
            f"down={down}"
        )
    return positive_integer("offset_features", offset_features)


def check_running_average(use_running_average: Any) -> None:
    """Raises ``ValueError`` unless the argument is ``None`` or a boolean, which may be traced."""
    value = use_running_average
    if value is None or isinstance(value, bool):
        return
    is_array = isinstance(value, jax.Array | np.ndarray | np.generic)
    if not is_array or value.shape or value.dtype != bool:
        raise ValueError(
            f"use_running_average must be None or a boolean, got {value!r}; pass size and scale by "
            "keyword"
        )


def checked_map(x: Any, geometry: Geometry) -> jax.Array:
    """Returns ``x`` as an array, or raises ``ValueError`` if it does not fit ``geometry``."""
    x = checked_input(x)
    check_groups(geometry.groups, x.shape[-1])
    return x


def checked_weights(
    x: jax.Array, weights: Any, geometry: Geometry, resize: Resize | None
) -> jax.Array:
    """Returns ``weights`` as an array, or raises ``ValueError`` if they do not fit ``x``.

    Args:
        x: feature map ``[..., H, W, C]``.
        weights: the argument.
        geometry: geometry of the call.
        resize: axes of the call, if it has a size or a scale.
    """
    layout, size, where = _output(x, geometry, resize)
    layout, expected = f"[..., {layout}, groups * kernel_size**2]", geometry.weight_channels
    return _checked_operand("weights", weights, layout, (*size, expected), x, where)


def checked_queries(
    x: jax.Array, queries: Any, geometry: Geometry, resize: Resize | None
) -> jax.Array:
    """Returns ``queries`` as an array, or raises ``ValueError`` if they do not fit ``x``.

    Args:
        x: feature map ``[..., H, W, C]``.
        queries: the argument.
        geometry: geometry of the call.
        resize: axes of the call, if it has a size or a scale.
    """
    layout, size, where = _output(x, geometry, resize)
    layout, expected = f"[..., {layout}, C]", (*size, x.shape[-1])
    queries = _checked_operand("queries", queries, layout, expected, x, where)
    if queries.dtype != x.dtype:
        raise ValueError(f"queries must have the dtype {x.dtype} of x, got {queries.dtype}")
    return queries


def _output(
    x: jax.Array, geometry: Geometry, resize: Resize | None
) -> tuple[str, tuple[Dimension, Dimension], str]:
    """How errors write the size of the output, the size, and how errors describe the call."""
    if resize is not None:
        call = (
            f"kernel_size={geometry.kernel_size}, groups={geometry.groups} and scale "
            f"({resize.rows.scale}, {resize.columns.scale})"
        )
        return "ceil(H * scale), ceil(W * scale)", resize.size, call
    height, width = map(geometry.output_size, x.shape[-3:-1])
    return "ceil(H * up / down), ceil(W * up / down)", (height, width), str(geometry)


def checked_offset_logits(
    offset_logits: Any, geometry: Geometry, resize: Resize | None
) -> jax.Array | None:
    """Returns ``offset_logits`` as an array, or raises ``ValueError`` if they do not fit."""
    if offset_logits is None:
        return None
    if resize is None:
        raise ValueError(
            "offset_logits must be None without size and scale, got an object of type "
            f"{type(offset_logits).__name__}"
        )
    layout = "[*size, groups * kernel_size**2]"
    array = checked_array("offset_logits", offset_logits, layout)
    expected = (*resize.size, geometry.weight_channels)
    if array.shape != expected:
        raise ValueError(f"offset_logits must be {layout} = {expected}, got shape {array.shape}")
    return array


def checked_logits(x: jax.Array, logits: Any, geometry: Geometry) -> jax.Array:
    """Returns ``logits`` as an array, or raises ``ValueError`` if they do not fit ``x``."""
    layout = "[..., ceil(H / down), ceil(W / down), up**2 * groups * kernel_size**2]"
    expected = (*map(geometry.cells, x.shape[-3:-1]), geometry.logit_channels)
    return _checked_operand("logits", logits, layout, expected, x, str(geometry))


def _checked_operand(
    name: str,
    array: Any,
    layout: str,
    expected: tuple[int, int, int],
    x: jax.Array,
    call: str,
) -> jax.Array:
    """Returns an array, or raises ``ValueError`` unless it has the expected shape.

    Args:
        name: the name of the argument, for the error.
        array: the array, with the leading axes of ``x``.
        layout: the layout of ``array``, for the error.
        expected: the last three sizes of ``array``.
        x: the feature map ``[..., H, W, C]``.
        call: description of the call, for the error.
    """
    array = checked_array(name, array)
    if array.shape != (*x.shape[:-3], *expected):
        raise ValueError(
            f"{name} must be {layout} = {(*x.shape[:-3], *expected)} for x of shape {x.shape} and "
            f"{call}, got shape {array.shape}"
        )
    return array
