"""Merges any number of leading batch axes into one, and splits it again.

The operator computes on ``[B, H, W, N]``. Merging the leading axes copies nothing, and the compiler
sees the same kernel for any number of them.
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
        operands: the arrays from which the result was computed, before their axes were merged. The
            result takes their leading axes. On a mesh with explicit axes it also takes the sharding
            of these axes, from the first operand whose leading axes are sharded over the same mesh
            axes as the batch of the result.
    """
    batch = operands[0].shape[:-_TRAILING]
    if len(batch) == 1:
        return array
    spec = jax.typeof(array).sharding.spec
    leading: tuple[Any, ...] = (None,) * len(batch)
    for operand in operands:
        operand_spec = jax.typeof(operand).sharding.spec[:-_TRAILING]
        if _mesh_axes(operand_spec) == _mesh_axes(spec[:1]):
            leading = operand_spec
            break
    return _reshaped(array, (*batch, *array.shape[1:]), PartitionSpec(*leading, *spec[1:]))


def _mesh_axes(spec: Sequence[Any]) -> tuple[str, ...]:
    """The mesh axes in some entries of a ``PartitionSpec``, in order."""
    entries = (entry if isinstance(entry, tuple) else (entry,) for entry in spec)
    return tuple(axis for entry in entries for axis in entry if axis is not None)


def _reshaped(array: jax.Array, shape: Sequence[int], spec: PartitionSpec) -> jax.Array:
    # Without explicit axes there is no sharding to set, and outside a mesh none can be set.
    if not any(spec):
        return lax.reshape(array, shape)
    sharding = NamedSharding(jax.typeof(array).sharding.mesh, spec)
    return lax.reshape(array, shape, out_sharding=sharding)
