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
        ValueError: ``x`` is not ``[B, H, W, C]``.
    """
    x = jnp.asarray(x)
    if x.ndim != 4:
        raise ValueError(f"{name} must be [B, H, W, C], got shape {x.shape}")
    return x


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
