"""Where the arrays of one call lie on several devices: the one placement they are brought to.

A reassembly is independent along the batch. Along the channels it is so too, as long as the weights
are the same for all of them, or go with their groups. So devices share batch and channels; rows,
columns, and channels of weights that would part a kernel are gathered.
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
class Placement:
    """Axes of a mesh that share the arrays of one call, all of them alike.

    Args:
        batch: those that share the batch.
        channels: those that share the channels of maps.
        by_group: whether the weights go with the channels, a kernel for each group.
    """

    batch: MeshAxes
    channels: MeshAxes
    by_group: bool

    def spec(self, role: Role) -> PartitionSpec:
        """How an array of rank 4 is split."""
        split = role == "map" or (role == "weights" and self.by_group)
        channels = self.channels if split else ()
        return PartitionSpec(_entry(self.batch), None, None, _entry(channels))

    def summed(self, result: Role) -> MeshAxes:
        """The axes on which a device has a part of the sum only, over its own channels."""
        return () if result == "map" or self.by_group else self.channels


def axes_of(entry: Any) -> MeshAxes:
    """The axes of a mesh in one entry of a ``PartitionSpec``."""
    if entry is None or entry is PartitionSpec.UNCONSTRAINED:
        return ()
    return entry if isinstance(entry, tuple) else (entry,)


def _entry(axes: MeshAxes) -> str | MeshAxes | None:
    return axes[0] if len(axes) == 1 else axes or None


def common_placement(
    roles: Sequence[Role],
    specs: Sequence[PartitionSpec],
    sizes: Mapping[str, int],
    channels: int,
    groups: int,
) -> Placement:
    """The placement for arrays that lie as ``specs`` say: the first that is split decides.

    Args:
        roles: what each array is.
        specs: how each array is split, with an entry for each of its four axes.
        sizes: of the axes of the mesh.
        channels: of a map.
        groups: of the channels.
    """
    batch = next(filter(None, (axes_of(spec[0]) for spec in specs)), ())
    maps = (spec for role, spec in zip(roles, specs, strict=True) if role == "map")
    shared = next(filter(None, (axes_of(spec[3]) for spec in maps)), ())
    shared = tuple(axis for axis in shared if axis not in batch)
    shards = math.prod(sizes[axis] for axis in shared)
    # The kernels of a group do not lie together in logits.
    one_by_one = groups == 1 or "logits" not in roles
    whole = (channels if groups == 1 else groups) % shards == 0
    return Placement(batch, shared if one_by_one and whole else (), by_group=groups > 1)


def explicit_placement(
    roles: Sequence[Role], arrays: Sequence[jax.Array], channels: int, groups: int
) -> tuple[Any, Placement]:
    """The mesh and the placement that the types of arrays show, under explicit sharding."""
    shardings = [jax.typeof(array).sharding for array in arrays]
    mesh = next((s.mesh for s in shardings if not s.mesh.empty), shardings[0].mesh)
    specs = [sharding.spec for sharding in shardings]
    return mesh, common_placement(roles, specs, mesh.shape, channels, groups)


def varying_over(array: jax.Array, axes: frozenset[str]) -> jax.Array:
    """Marks an array in a ``shard_map`` as one that differs over axes of the mesh."""
    missing = axes - jax.typeof(array).manual_axis_type.varying
    return jax.lax.pcast(array, tuple(sorted(missing)), to="varying") if missing else array


def varying_axes(*arrays: jax.Array) -> frozenset[str]:
    """The axes over which any of the arrays differs in a ``shard_map``."""
    return frozenset().union(*(jax.typeof(a).manual_axis_type.varying for a in arrays))


def resharded(array: jax.Array, mesh: Any, spec: PartitionSpec) -> jax.Array:
    """Brings an array to ``spec`` under explicit sharding."""
    if jax.typeof(array).sharding.spec == spec:
        return array
    return reshard(array, NamedSharding(mesh, spec))


def led_by(array: jax.Array, mesh: Any, *leading: MeshAxes) -> jax.Array:
    """Has axes of a mesh split the leading dimensions; other axes split the rest as they did."""
    taken = {axis for axes in leading for axis in axes}
    rest = (
        tuple(axis for axis in axes_of(entry) if axis not in taken)
        for entry in jax.typeof(array).sharding.spec[len(leading) :]
    )
    return resharded(array, mesh, PartitionSpec(*map(_entry, (*leading, *rest))))


def placed(
    x: Float[Array, "batch height width channels"],
    weights: Float[Array, "batch rows columns kernels"],
    groups: int,
    role: Literal["weights", "logits"],
) -> tuple[Float[Array, "batch height width channels"], Float[Array, "batch rows columns kernels"]]:
    """Brings a map and its weights or logits to one placement, by differentiable operations.

    Gradients of what is computed from them then have the placement of their operands, and each
    step brings its gradient back: where an operand was the same on all devices, to a sum over
    them. A ``custom_vjp`` by itself would return a part of the sum on each.
    """
    roles: tuple[Role, Role] = ("map", role)
    mesh, placement = explicit_placement(roles, (x, weights), x.shape[3], groups)
    varying = varying_axes(x, weights)
    x, weights = (
        resharded(varying_over(array, varying), mesh, placement.spec(role))
        for array, role in zip((x, weights), roles, strict=True)
    )
    return x, weights
