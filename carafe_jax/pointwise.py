"""1x1 convolutions as matrix products, on a CPU."""

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jaxtyping import Array, Num


def convolve(
    lhs: Num[Array, "batch *size channels"],
    rhs: Num[Array, "*kernel_size kernel_channels features"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: jax.lax.PrecisionLike = None,
    preferred_element_type: jax.typing.DTypeLike | None = None,
    out_sharding: jax.sharding.NamedSharding | jax.sharding.PartitionSpec | None = None,
) -> Num[Array, "batch *out_size features"]:
    """Convolves for ``Conv(conv_general_dilated=convolve)`` of Flax, 1x1 kernels fast on a CPU.

    It computes what :func:`jax.lax.conv_general_dilated` does, but for rounding, and takes its
    arguments. For the gradient of a 1x1 convolution, XLA for CPUs takes several times as long as
    for the matrix products that it consists of, and in 16 bits for the forward pass too: there it
    is a product. On other platforms it is XLA's convolution, with which XLA for GPUs fuses what
    follows, and so is one that is not 1x1, is padded, dilated or in groups, or has another order of
    axes.

    Args:
        lhs: the map, channels last.
        rhs: the kernel; input channels before features.
        window_strides: of each spatial axis.
        padding: of each spatial axis as a pair, or ``"SAME"`` or ``"VALID"``.
        lhs_dilation: of the map, of each spatial axis.
        rhs_dilation: of the kernel, of each spatial axis.
        dimension_numbers: order of the axes, as of :func:`jax.lax.conv_general_dilated`; for the
            orders of the arguments and the result here, ``("NHWC", "HWIO", "NHWC")``.
        feature_group_count: groups of channels with kernels of their own.
        precision: of the products, as of :func:`jax.lax.dot_general`.
        preferred_element_type: dtype in which to add up and to return.
        out_sharding: of the result, on meshes with explicit axes.
    """

    def convolution(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            precision=precision,
            preferred_element_type=preferred_element_type,
            out_sharding=out_sharding,
        )

    def product(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        if any(stride > 1 for stride in window_strides):
            lhs = lhs[:, *(slice(None, None, stride) for stride in window_strides)]
        # A gradient by the second operand of a product comes out as [features, channels]. If XLA
        # is free to transpose it inside of the product, that takes up to 20 times as long.
        kernel = lax.optimization_barrier(rhs.reshape(rhs.shape[-2:]).T)  # [features, channels]
        return lax.dot_general(
            lhs,
            kernel,
            (((lhs.ndim - 1,), (1,)), ((), ())),
            precision=precision,
            preferred_element_type=preferred_element_type,
            out_sharding=out_sharding,
        )

    order = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    one_by_one = all(rhs.shape[axis] == 1 for axis in order.rhs_spec[2:])
    unpadded = isinstance(padding, str) or all(tuple(pair) == (0, 0) for pair in padding)
    undilated = lhs_dilation is None or set(lhs_dilation) <= {1}
    in_groups = feature_group_count > 1
    if _is_channels_last(order) and one_by_one and unpadded and undilated and not in_groups:
        return lax.platform_dependent(lhs, rhs, cpu=product, default=convolution)
    return convolution(lhs, rhs)


def _is_channels_last(order: lax.ConvDimensionNumbers) -> bool:
    """Whether maps are ``[B, ..., C]`` and the kernel is ``[..., C, features]``."""
    axes = range(len(order.lhs_spec))
    maps, kernel = (0, axes[-1], *axes[1:-1]), (axes[-1], axes[-2], *axes[:-2])
    return order.lhs_spec == order.out_spec == maps and order.rhs_spec == kernel
