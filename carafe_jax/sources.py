"""Source weights: how much each pixel of an earlier map contributes to a pixel of a later map.

A network rescales maps by several reassemblies one after the other, such as the top-down pathway of
a feature pyramid. With fixed kernels this chain is linear in its first map, so each pixel of the
last map is a weighted sum of pixels of the first map. The *source weights* of a target pixel are
these weights (Figs. 1 and 9 of the CARAFE++ paper). Layers between the reassemblies, such as
convolutions and laterals, are not part of the chain.

``carafe_jax.linen.collect_reassemblies`` and ``carafe_jax.nnx.collect_reassemblies`` return the
reassemblies of a model.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from carafe_jax._ops import reassemble


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("kernels",),
    meta_fields=("size", "kernel_size", "up", "down", "groups"),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Reassembly:
    """A reassembly with fixed kernels. It is a pytree whose only leaf is ``kernels``.

    Attributes:
        kernels: reassembly kernels ``[..., ceil(H * up / down), ceil(W * up / down),
            groups * k * k]``, as in :func:`carafe_jax.reassemble`.
        size: height ``H`` and width ``W`` of the input, in pixels.
        kernel_size: side ``k`` of a kernel, odd.
        up: numerator of the scale.
        down: denominator of the scale.
        groups: number of channel groups, each with kernels of its own.
    """

    kernels: Float[Array, "*batch out_height out_width groups*kernel_size**2"]
    size: tuple[int, int]
    kernel_size: int
    up: int
    down: int
    groups: int


def reassemble_chain(
    chain: Sequence[Reassembly], x: Float[Array, "*batch height width channels"]
) -> Float[Array, "*batch out_height out_width channels"]:
    """Applies reassemblies one after the other.

    A map that is larger than the next reassembly reads is cropped at its end, as in a pyramid whose
    lateral has an odd size. Channels belong to groups in order, as in
    :func:`carafe_jax.reassemble`.

    Args:
        chain: reassemblies in the order in which they are applied, at least one.
        x: first map, ``[..., H, W, C]`` with the batch axes of the kernels.

    Returns:
        The last map, ``[..., H', W', C]`` in the dtype of ``x``.

    Raises:
        ValueError: ``chain`` is empty, or a map is smaller than the next reassembly reads.
    """
    raise NotImplementedError


def source_weights(
    chain: Sequence[Reassembly], targets: Int[Array, "targets 2"]
) -> Float[Array, "targets height width"]:
    """Returns the weight of each pixel of the first map in target pixels of the last map.

    Args:
        chain: reassemblies in the order in which they are applied, at least one. Their kernels have
            no batch axes; use :func:`jax.vmap` for batches.
        targets: row and column of each target in the last map, ``[T, 2]``.

    Returns:
        Weights ``[T, H, W]`` in float32, where ``H`` and ``W`` are the size of the first map. With
        several groups they are the mean over channels. The weights of a target sum to 1 for
        normalised kernels, and to less where kernels reach beyond the border of a map.

    Raises:
        ValueError: ``chain`` is empty, a map is smaller than the next reassembly reads, kernels have
            batch axes, or ``targets`` are not pairs of integers. A target outside the last map
            raises it too, if its value is known.
    """
    raise NotImplementedError


def smallest_sources(
    weights: Float[Array, "*batch height width"], share: float = 0.7
) -> Bool[Array, "*batch height width"]:
    """Returns the smallest set of pixels that holds the given share of the weight.

    Args:
        weights: source weights ``[..., H, W]``, not negative.
        share: fraction of the sum of ``weights``, in (0, 1].

    Returns:
        True for the pixels of the set, ``[..., H, W]``. Among equal weights the pixel that is first
        in row-major order is taken first. The set is empty if all weights are 0.

    Raises:
        ValueError: ``share`` is out of range.
    """
    raise NotImplementedError
