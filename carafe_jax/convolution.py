"""Convolutions whose gradients are fast on a CPU."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from carafe_kernels.sharding import varying_axes, varying_over
from jax import lax
from jaxtyping import Array, Num

type _Convolution = Callable[[jax.Array, jax.Array], jax.Array]

# The gradient of a kernel larger than 1x1 is computed by matrix products if the number of input
# channels times the number of features is at least this; the second number is for dtypes of up to
# 16 bits. Below it, XLA is as fast or faster (``python -m experiments.benchmarks.convolutions``).
_MIN_WEIGHTS_PER_TAP = 6144
_MIN_WEIGHTS_PER_TAP_16_BIT = 384


def convolve(
    lhs: Num[Array, "*lhs"],
    rhs: Num[Array, "*rhs"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: jax.lax.PrecisionLike = None,
    preferred_element_type: jax.typing.DTypeLike | None = None,
    out_sharding: jax.sharding.NamedSharding | jax.sharding.PartitionSpec | None = None,
) -> Num[Array, "*out"]:
    """Convolves as :func:`jax.lax.conv_general_dilated`, with gradients that are fast on a CPU.

    The arguments and, up to rounding, the results are those of
    :func:`jax.lax.conv_general_dilated`. Pass the function to Flax's convolutions:
    ``Conv(..., conv_general_dilated=convolve)``.

    On a CPU, a 1x1 convolution is computed as one matrix product. For a larger kernel and many
    channels, the gradient of the kernel is computed as one matrix product per tap. XLA's own
    gradients take 1.6 to 6.6 times as long for 1x1 kernels, and up to 2.4 times as long for larger
    kernels (``experiments/README.md``). On other platforms XLA computes the convolution and its
    gradients. On all platforms XLA also computes convolutions with groups, with a dilated map, or
    with another order of axes than Flax's.

    A kernel larger than 1x1 has no forward-mode derivatives (``jax.jvp``, ``jax.hessian``) on any
    platform if the product of input channels and features is at least 6144, or 384 in dtypes of up
    to 16 bits.

    >>> import flax.linen as nn
    >>> layer = nn.Conv(32, (3, 3), conv_general_dilated=convolve)

    Args:
        lhs: the feature map. Its layout is ``[B, *size, C]`` with the ``dimension_numbers`` of
            Flax, and ``[B, C, *size]`` by default.
        rhs: the kernel in the dtype of ``lhs``. Its layout is
            ``[*kernel_size, C / groups, features]`` with the ``dimension_numbers`` of Flax, and
            ``[features, C / groups, *kernel_size]`` by default.
        window_strides: stride along each spatial axis.
        padding: ``"SAME"``, ``"VALID"``, or a pair of widths for each spatial axis, before and
            after the map.
        lhs_dilation: dilation of the map along each spatial axis; by default 1.
        rhs_dilation: dilation of the kernel along each spatial axis; by default 1.
        dimension_numbers: order of the axes, as in :func:`jax.lax.conv_general_dilated`. For two
            spatial axes Flax uses ``("NHWC", "HWIO", "NHWC")``.
        feature_group_count: number of channel groups, each with kernels of its own.
        precision: precision of the matrix products, as in :func:`jax.lax.dot_general`.
        preferred_element_type: dtype of the sums and of the result.
        out_sharding: sharding of the result, for meshes with explicit axes.

    Returns:
        The result with its axes in the order of ``dimension_numbers``, in the dtype of ``lhs`` or
        in ``preferred_element_type``.

    Raises:
        TypeError: ``lhs`` and ``rhs`` have different dtypes, or their shapes do not fit.
        ValueError: the shapes of ``lhs`` and ``rhs`` do not fit.
    """
    lhs, rhs = jnp.asarray(lhs), jnp.asarray(rhs)
    order = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    size = rhs.shape[:-2]
    steps = (1,) * len(size) if rhs_dilation is None else rhs_dilation
    convolution = functools.partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )
    dilated = lhs_dilation is not None and set(lhs_dilation) != {1}
    if not _is_channels_last(order) or feature_group_count > 1 or dilated:
        return convolution(lhs, rhs)
    if isinstance(padding, str):
        reach = [(n - 1) * step + 1 for n, step in zip(size, steps, strict=True)]
        padding = lax.padtype_to_pads(lhs.shape[1:-1], reach, window_strides, padding)
    products = functools.partial(
        lax.dot_general,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )
    on_cpu: _Convolution
    if set(size) == {1} and all(tuple(pair) == (0, 0) for pair in padding):
        on_cpu = functools.partial(_product, products, window_strides)
    elif (
        preferred_element_type is None
        and out_sharding is None
        and not isinstance(precision, tuple | list)  # a pair is for (lhs, rhs), not (lhs, dy)
        and _products_are_faster(lhs, rhs)
    ):
        kernel_gradient = functools.partial(
            _kernel_gradient, size, window_strides, steps, padding, precision
        )
        on_cpu = _with_kernel_gradient(convolution, kernel_gradient)
    else:
        return convolution(lhs, rhs)
    return lax.platform_dependent(lhs, rhs, cpu=on_cpu, default=convolution)


def _is_channels_last(order: lax.ConvDimensionNumbers) -> bool:
    """Whether maps are ``[B, ..., C]`` and the kernel is ``[..., C, features]``."""
    axes = range(len(order.lhs_spec))
    maps, kernel = (0, axes[-1], *axes[1:-1]), (axes[-1], axes[-2], *axes[:-2])
    return order.lhs_spec == order.out_spec == maps and order.rhs_spec == kernel


def _product(
    products: Callable[..., jax.Array], strides: Sequence[int], lhs: jax.Array, rhs: jax.Array
) -> jax.Array:
    """Computes a 1x1 convolution as one matrix product."""
    if any(stride > 1 for stride in strides):
        size = lhs.shape[1:-1]
        # With this end a symbolic size of the result is written as that of a convolution.
        ends = [(n - 1) // stride * stride + 1 for n, stride in zip(size, strides, strict=True)]
        end = (lhs.shape[0], *ends, lhs.shape[-1])
        lhs = lax.slice(lhs, [0] * lhs.ndim, end, (1, *strides, 1))
    # The gradient of the second operand of a product has the layout [features, channels]. Without
    # the barrier XLA transposes inside of the product, which takes up to 20 times as long.
    kernel = lax.optimization_barrier(rhs.reshape(rhs.shape[-2:]).T)  # [features, channels]
    return products(lhs, kernel, (((lhs.ndim - 1,), (1,)), ((), ())))


def _products_are_faster(lhs: jax.Array, rhs: jax.Array) -> bool:
    """Whether matrix products compute the gradient of a kernel larger than 1x1 faster than XLA."""
    if any(axis for array in (lhs, rhs) for axis in jax.typeof(array).sharding.spec):
        return False  # with explicit axes each product needs an out_sharding
    least = _MIN_WEIGHTS_PER_TAP if rhs.dtype.itemsize > 2 else _MIN_WEIGHTS_PER_TAP_16_BIT
    return rhs.shape[-2] * rhs.shape[-1] >= least


def _with_kernel_gradient(convolution: _Convolution, kernel_gradient: _Convolution) -> _Convolution:
    """Returns a convolution whose gradient of the kernel is ``kernel_gradient(lhs, dy)``."""

    @jax.custom_vjp
    def convolve(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        return convolution(lhs, rhs)

    def forward(lhs: jax.Array, rhs: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        return convolve(lhs, rhs), (lhs, rhs)

    def backward(
        operands: tuple[jax.Array, jax.Array], dy: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        lhs, rhs = operands
        (dlhs,) = jax.linear_transpose(lambda lhs: convolution(lhs, rhs), lhs)(dy)
        return dlhs, kernel_gradient(lhs, dy)

    convolve.defvjp(forward, backward)

    def run(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        # In a shard_map, the gradient of a kernel that all devices share is summed over them.
        axes = varying_axes(lhs, rhs)
        return convolve(varying_over(lhs, axes), varying_over(rhs, axes))

    return run


def _kernel_gradient(
    size: Sequence[int],
    strides: Sequence[int],
    steps: Sequence[int],
    padding: Sequence[tuple[int, int]],
    precision: Any,
    lhs: jax.Array,
    dy: jax.Array,
) -> jax.Array:
    """Computes the gradient of a kernel, one matrix product per tap.

    Args:
        size: size of the kernel along each spatial axis.
        strides: stride along each spatial axis.
        steps: dilation of the kernel along each spatial axis.
        padding: widths of the padding before and after the map, for each spatial axis.
        precision: precision of the matrix products.
        lhs: the feature map ``[B, ..., C]``.
        dy: the cotangent of the result, ``[B, ..., features]``.

    Returns:
        The gradient ``[*size, C, features]`` in the dtype of ``lhs``.
    """
    if not dy.size:  # the map is smaller than the kernel, or the batch is empty
        return jnp.zeros((*size, lhs.shape[-1], dy.shape[-1]), lhs.dtype)
    zero = jnp.zeros((), lhs.dtype)
    padded = lax.pad(lhs, zero, [(0, 0, 0), *((*pair, 0) for pair in padding), (0, 0, 0)])
    pixels = tuple(range(lhs.ndim - 1))
    taps: list[jax.Array] = []
    for tap in itertools.product(*map(range, size)):
        if taps:
            # The products run one after the other. All at once they would hold one copy of the map
            # per tap.
            padded, taps[-1] = lax.optimization_barrier((padded, taps[-1]))
        seen = padded[
            :,
            *(
                slice(n * step, n * step + (count - 1) * stride + 1, stride)
                for n, step, count, stride in zip(tap, steps, dy.shape[1:-1], strides, strict=True)
            ),
        ]
        taps.append(lax.dot_general(dy, seen, ((pixels, pixels), ((), ())), precision=precision))
    taps[-1] = lax.optimization_barrier(taps[-1])  # else XLA transposes inside of the product
    kernel = jnp.stack(taps).swapaxes(1, 2)  # [taps, C, features]
    return kernel.reshape(*size, *kernel.shape[1:])
