"""Any number of leading batch axes as one, and back.

The operator computes on ``[B, H, W, N]``. To reshape the leading axes to one copies nothing, and
the compiler sees one kernel whatever their number.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

# Rows, columns and channels.
_TRAILING = 3


def merge_batch_axes(
    array: Shaped[Array, "*batch height width channels"],
) -> Shaped[Array, "merged_batch height width channels"]:
    """Reshapes ``[..., H, W, N]`` to ``[B, H, W, N]``; without a leading axis, ``B`` is 1."""
    leading = array.ndim - _TRAILING
    if leading == 1:
        return array
    shape = (math.prod(array.shape[:leading]), *array.shape[leading:])
    spec = jax.typeof(array).sharding.spec
    axes = _mesh_axes(spec[:leading])
    return _reshaped(array, shape, PartitionSpec(axes or None, *spec[leading:]))


def split_batch_axis(
    array: Shaped[Array, "merged_batch out_height out_width channels"],
    operands: Sequence[Shaped[Array, "*batch rows columns channels"]],
) -> Shaped[Array, "*batch out_height out_width channels"]:
    """Undoes :func:`merge_batch_axes` for a result.

    Args:
        array: the result, ``[B, H', W', N]``.
        operands: the arrays it was computed from, before their axes were merged. The result takes
            their leading axes. On a mesh with explicit axes it also takes the sharding of these
            axes, from the first operand whose leading axes are sharded as the batch of the result.
    """
    batch = operands[0].shape[:-_TRAILING]
    if len(batch) == 1:
        return array
    spec = jax.typeof(array).sharding.spec
    leading: tuple[Any, ...] = (None,) * len(batch)
    for operand in operands:
        of_operand = jax.typeof(operand).sharding.spec[:-_TRAILING]
        if _mesh_axes(of_operand) == _mesh_axes(spec[:1]):
            leading = of_operand
            break
    return _reshaped(array, (*batch, *array.shape[1:]), PartitionSpec(*leading, *spec[1:]))


def _mesh_axes(spec: Sequence[Any]) -> tuple[str, ...]:
    """The mesh axes in some entries of a ``PartitionSpec``, in order."""
    entries = (entry if isinstance(entry, tuple) else (entry,) for entry in spec)
    return tuple(axis for entry in entries for axis in entry if axis is not None)


def _reshaped(array: jax.Array, shape: Sequence[int], spec: PartitionSpec) -> jax.Array:
    # Without a sharding by explicit axes there is nothing to say, and outside a mesh no way to.
    if not any(spec):
        return lax.reshape(array, shape)
    sharding = NamedSharding(jax.typeof(array).sharding.mesh, spec)
    return lax.reshape(array, shape, out_sharding=sharding)
