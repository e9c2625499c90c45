"""Checks of arguments. Errors name the argument, what was expected and what was given."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp


def checked_map(name: str, x: Any) -> jax.Array:
    """Returns a map as a JAX array.

    Args:
        name: name of the argument, for the message.
        x: JAX or NumPy array, or another object that converts to an array.

    Raises:
        ValueError: ``x`` is not ``[B, H, W, C]`` or does not have a floating-point dtype.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} must have a floating-point dtype, got {x.dtype}")
    if x.ndim != 4:
        raise ValueError(f"{name} must be [B, H, W, C], got shape {x.shape}")
    return x


def checked_pixels(name: str, x: Any) -> jax.Array:
    """Returns a map as a JAX array, as :func:`checked_map`, which also has at least one pixel.

    Args:
        name: name of the argument, for the message.
        x: JAX or NumPy array, or another object that converts to an array.

    Raises:
        ValueError: ``x`` is not ``[B, H, W, C]``, does not have a floating-point dtype, or has a
            height or width of 0.
    """
    x = checked_map(name, x)
    if 0 in x.shape[1:3]:
        raise ValueError(f"{name} must have a height and width of at least 1, got shape {x.shape}")
    return x


def checked_size(name: str, size: Any) -> tuple[int, int]:
    """Returns the size of a map as Python integers.

    Args:
        name: name of the argument, for the message.
        size: height and width in pixels.

    Raises:
        ValueError: ``size`` is not two integers of at least 1.
    """
    try:
        rows, columns = size
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be two integers, height and width, got {size!r}") from None
    return checked_integer(name, rows, 1), checked_integer(name, columns, 1)


def checked_integer(name: str, value: Any, least: int) -> int:
    """Returns a Python or NumPy integer as a Python integer.

    Arrays are refused, as :mod:`carafe_jax` refuses them: sizes set shapes, which cannot depend on
    the values of an array inside ``jit``.

    Args:
        name: name of the argument, for the message.
        value: the integer.
        least: lowest value that is allowed.

    Raises:
        ValueError: ``value`` is not an integer, or is below ``least``.
    """
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return int(value)
