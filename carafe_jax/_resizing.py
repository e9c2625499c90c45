"""The target of a call: a size or a scale, in place of ``up / down``."""

import numbers
from fractions import Fraction
from typing import Any

import jax
from carafe_kernels.geometry import Axis, Geometry, Resize, positive_integer
from carafe_kernels.names import Scale


def checked_resize(
    size: tuple[int, int] | None,
    scale: Scale | None,
    map_size: tuple[Any, ...],
    fixed: dict[str, int],
) -> Resize | None:
    """Returns the axes of a reassembly, or ``None`` if neither ``size`` nor ``scale`` is given.

    Args:
        size: height and width of the output.
        scale: scale of both axes, or of rows and of columns.
        map_size: height and width of the input.
        fixed: arguments that must be 1 for a ``size`` or ``scale``, by name.

    Raises:
        ValueError: ``size`` or ``scale`` has a wrong type or value, both are given, an argument in
            ``fixed`` is not 1, or ``map_size`` is not known.
    """
    if size is None and scale is None:
        return None
    if size is not None and scale is not None:
        raise ValueError(f"size must be None if scale is given, got size={size} and scale={scale}")
    name = "scale" if size is None else "size"
    for argument, value in fixed.items():
        if value != 1:
            raise ValueError(f"{argument} must be 1 if {name} is given, got {value}")
    if not all(isinstance(side, int) for side in map_size):
        raise ValueError(
            f"x must have a known height and width if {name} is given, got size {map_size}"
        )
    if size is not None:
        scales = [
            Fraction(outputs, sources)
            for outputs, sources in zip(_checked_size(size), map_size, strict=True)
        ]
    else:
        scales = list(_checked_scales(scale))
    rows, columns = map(Axis, map_size, scales)
    return Resize(rows, columns)


def layer_target(
    layer: Any, x: jax.Array, size: tuple[int, int] | None, scale: Scale | None
) -> tuple[Resize | None, Any]:
    """Returns what a call of a layer ``CARAFE``, of Linen or NNX, computes.

    Args:
        layer: the layer.
        x: input of the layer, ``[..., H, W, C]``.
        size: argument of the call.
        scale: argument of the call.

    Returns:
        The axes of the call, or ``None`` if the map is rescaled by ``up / down``, and the index of
        the part of the rescaled map that the call returns.
    """
    resize = checked_resize(size, scale, x.shape[-3:-1], {"down": layer.down})
    if resize is None:
        return None, ...
    # Then a collected reassembly has the ``up`` of the layer, like those of other calls.
    if resize.crops(Geometry(up=layer.up)):
        height, width = resize.size
        return None, (..., slice(height), slice(width), slice(None))
    return resize, ...


def _checked_size(size: Any) -> tuple[int, int]:
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ValueError(f"size must be two integers, height and width, got {size!r}")
    height, width = size
    return positive_integer("height of size", height), positive_integer("width of size", width)


def _checked_scales(scale: Any) -> tuple[Fraction, Fraction]:
    scales = scale if isinstance(scale, tuple | list) else (scale, scale)
    if len(scales) != 2 or not all(_is_scale(value) for value in scales):
        raise ValueError(
            "scale must be a positive integer or fractions.Fraction, or two of them for rows and "
            f"columns, not an array, got {scale!r}; write a decimal number as Fraction('1.7')"
        )
    # Integers of Python: arithmetic with those of NumPy may overflow.
    rows, columns = (Fraction(int(s.numerator), int(s.denominator)) for s in scales)
    return rows, columns


def _is_scale(value: Any) -> bool:
    # A float is refused: it is not the number that was written, and 10 * 1.1 would give 12 outputs.
    is_rational = isinstance(value, numbers.Rational) and not isinstance(value, bool)
    return is_rational and value.numerator > 0
