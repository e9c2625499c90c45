"""The common sharding of all arrays of one reassembly over several devices.

Images can be reassembled independently. So can channels if all of them have the same weights, or if
the weights are sharded with the groups of channels. Batch and channels are therefore sharded. Rows
and columns are gathered, and so are channels of weights where a shard would hold only some of the
taps of a kernel.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
from jax.sharding import NamedSharding, PartitionSpec, reshard
from jaxtyping import Array, Float

type MeshAxes = tuple[str, ...]
Role = Literal["map", "weights", "logits"]


@dataclasses.dataclass(frozen=True)
class CommonSharding:
    """Mesh axes over which all arrays of one call are sharded in the same way.

    Args:
        batch: mesh axes that shard the batch.
        channels: mesh axes that shard the channels of feature maps.
        by_group: whether the weights are sharded with the channels, because each group has kernels
            of its own.
    """

    batch: MeshAxes
    channels: MeshAxes
    by_group: bool

    def spec(self, role: Role) -> PartitionSpec:
        """The ``PartitionSpec`` of an array of rank 4."""
        sharded = role == "map" or (role == "weights" and self.by_group)
        channels = self.channels if sharded else ()
        return PartitionSpec(_entry(self.batch), None, None, _entry(channels))

    def partial_sum_axes(self, result: Role) -> MeshAxes:
        """Mesh axes over which a result must be summed: each device sums over its channels only."""
        return () if result == "map" or self.by_group else self.channels


def axes_of(entry: Any) -> MeshAxes:
    """The mesh axes in one entry of a ``PartitionSpec``."""
    if entry is None or entry is PartitionSpec.UNCONSTRAINED:
        return ()
    return entry if isinstance(entry, tuple) else (entry,)


def _entry(axes: MeshAxes) -> str | MeshAxes | None:
    return axes[0] if len(axes) == 1 else axes or None


def common_sharding(
    roles: Sequence[Role],
    specs: Sequence[PartitionSpec],
    sizes: Mapping[str, int],
    channels: int,
    groups: int,
) -> CommonSharding:
    """The common sharding for arrays that are sharded by ``specs``.

    The first array whose batch is sharded decides how the batch is sharded, and the first feature
    map whose channels are sharded decides how the channels are sharded.

    Args:
        roles: the role of each array.
        specs: the sharding of each array, with an entry for each of its four axes.
        sizes: the size of each mesh axis.
        channels: number of channels of a feature map.
        groups: number of channel groups.
    """
    batch = next(filter(None, (axes_of(spec[0]) for spec in specs)), ())
    maps = (spec for role, spec in zip(roles, specs, strict=True) if role == "map")
    shared = next(filter(None, (axes_of(spec[3]) for spec in maps)), ())
    shared = tuple(axis for axis in shared if axis not in batch)
    shards = math.prod(sizes[axis] for axis in shared)
    # In logits, the kernels of one group are not contiguous, so a shard cannot hold them alone.
    separable = groups == 1 or "logits" not in roles
    whole = (channels if groups == 1 else groups) % shards == 0
    return CommonSharding(batch, shared if separable and whole else (), by_group=groups > 1)


def common_explicit_sharding(
    roles: Sequence[Role], arrays: Sequence[jax.Array], channels: int, groups: int
) -> tuple[Any, CommonSharding]:
    """The mesh and the common sharding of arrays, from their types under explicit sharding."""
    shardings = [jax.typeof(array).sharding for array in arrays]
    mesh = next((s.mesh for s in shardings if not s.mesh.empty), shardings[0].mesh)
    specs = [sharding.spec for sharding in shardings]
    return mesh, common_sharding(roles, specs, mesh.shape, channels, groups)


def varying_over(array: jax.Array, axes: frozenset[str]) -> jax.Array:
    """Marks an array in a ``shard_map`` as varying over mesh axes."""
    missing = axes - jax.typeof(array).manual_axis_type.varying
    return jax.lax.pcast(array, tuple(sorted(missing)), to="varying") if missing else array


def varying_axes(*arrays: jax.Array) -> frozenset[str]:
    """The mesh axes over which any of the arrays varies in a ``shard_map``."""
    return frozenset().union(*(jax.typeof(a).manual_axis_type.varying for a in arrays))


def resharded(array: jax.Array, mesh: Any, spec: PartitionSpec) -> jax.Array:
    """Reshards an array to ``spec`` under explicit sharding."""
    if jax.typeof(array).sharding.spec == spec:
        return array
    return reshard(array, NamedSharding(mesh, spec))


def with_leading_axes(array: jax.Array, mesh: Any, *leading: MeshAxes) -> jax.Array:
    """Shards the leading dimensions over the given mesh axes.

    The other dimensions keep their sharding, except over the given axes.
    """
    taken = {axis for axes in leading for axis in axes}
    rest = (
        tuple(axis for axis in axes_of(entry) if axis not in taken)
        for entry in jax.typeof(array).sharding.spec[len(leading) :]
    )
    return resharded(array, mesh, PartitionSpec(*map(_entry, (*leading, *rest))))


def with_common_sharding(
    x: Float[Array, "batch height width channels"],
    other: Float[Array, "batch rows columns features"],
    groups: int,
    role: Role,
) -> tuple[
    Float[Array, "batch height width channels"], Float[Array, "batch rows columns features"]
]:
    """Reshards a feature map and another operand to their common sharding, differentiably.

    A ``custom_vjp`` of the resharded arrays returns gradients with the common sharding. The
    transpose of the resharding returns them to the sharding of the operands: if an operand was the
    same on all devices, its gradient is summed over the devices. A ``custom_vjp`` of the operands
    themselves would return only a part of this sum on each device.

    Args:
        x: feature map ``[B, H, W, C]``.
        other: weights, logits or another map, with the batch of ``x``.
        groups: number of channel groups.
        role: what ``other`` is.

    Returns:
        ``x`` and ``other``, resharded.
    """
    roles: tuple[Role, Role] = ("map", role)
    mesh, common = common_explicit_sharding(roles, (x, other), x.shape[3], groups)
    varying = varying_axes(x, other)
    x, other = (
        resharded(varying_over(array, varying), mesh, common.spec(role))
        for array, role in zip((x, other), roles, strict=True)
    )
    return x, other
