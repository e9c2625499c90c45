"""Sums over the taps of a modulated deformable convolution, and their gradients."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from experiments.models.deformable_sampling import (
    Corners,
    SampleGradients,
    add_to_pixels,
    bilinear_weights,
    corner_pixels,
    corners,
    padded_pixels,
    sample_gradients,
    steps,
    weighted_sum,
    without_padding,
)

# Largest number of outputs in a block. The outputs are computed in blocks, and each block one tap
# after the other, so that the samples of a single tap of a block are in memory.
_OUTPUTS_PER_BLOCK = 2048


class Geometry(NamedTuple):
    """Settings of a modulated deformable convolution.

    Attributes:
        stride: stride along both axes.
        padding: padding on each side of both axes, in pixels.
        dilation: distance between neighbouring taps, in pixels.
        groups: number of groups of the convolution.
        deformable_groups: number of channel groups, each with offsets and masks of its own.
    """

    stride: int
    padding: int
    dilation: int
    groups: int
    deformable_groups: int

    def output_size(self, x: jax.Array, kernel_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the result for a map ``[B, H, W, C]``."""
        height, width = (
            (n + 2 * self.padding - self.dilation * (taps - 1) - 1) // self.stride + 1
            for n, taps in zip(x.shape[1:3], kernel_size, strict=True)
        )
        return height, width


def sums_over_taps(
    geometry: Geometry, x: jax.Array, offsets: jax.Array, masks: jax.Array, kernel: jax.Array
) -> jax.Array:
    """Computes the convolution, with the gradients of automatic differentiation.

    The arguments and the result are those of :func:`convolve_deformed`.
    """
    rows, columns, _, features = kernel.shape
    size = geometry.output_size(x, (rows, columns))
    dtype = _sum_dtype(x)
    pixels = padded_pixels(x, geometry.deformable_groups)
    step = steps(x.shape, geometry.deformable_groups)
    taps = _by_group(kernel, geometry.groups)

    def block(_: None, samples: tuple[Corners, jax.Array]) -> tuple[None, jax.Array]:
        outputs = samples[1].shape[1] // geometry.deformable_groups

        def add_tap(
            total: jax.Array, tap: tuple[Corners, jax.Array, jax.Array]
        ) -> tuple[jax.Array, None]:
            at, mask, weights = tap
            sampled = _sampled(at, mask, corner_pixels(pixels, at, step))
            sampled = sampled.astype(x.dtype).reshape(outputs, *taps.shape[1:3])
            return total + _contract("ngc,gcf->ngf", sampled, weights, dtype), None

        total = jnp.zeros((outputs, geometry.groups, features // geometry.groups), dtype)
        total, _ = lax.scan(add_tap, total, (*samples, taps))
        return None, total.reshape(outputs, features).astype(x.dtype)

    _, y = lax.scan(block, None, _samples(geometry, x, offsets, masks, (rows, columns)))
    return _joined(y, (x.shape[0], *size))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def convolve_deformed(
    geometry: Geometry, x: jax.Array, offsets: jax.Array, masks: jax.Array, kernel: jax.Array
) -> jax.Array:
    """Computes the convolution, with gradients that are also summed block by block and tap by tap.

    The backward pass computes the samples again. Automatic differentiation would keep all of them.

    Args:
        geometry: settings of the convolution.
        x: feature map ``[B, H, W, C]``.
        offsets: offset of each tap, ``[B, H', W', deformable_groups * K * 2]``.
        masks: factor of each tap, ``[B, H', W', deformable_groups * K]``.
        kernel: kernel ``[kh, kw, C / groups, F]`` in the dtype of ``x``.

    Returns:
        A map ``[B, H', W', F]`` in the dtype of ``x``.
    """
    return sums_over_taps(geometry, x, offsets, masks, kernel)


def _forward(
    geometry: Geometry, x: jax.Array, offsets: jax.Array, masks: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return sums_over_taps(geometry, x, offsets, masks, kernel), (x, offsets, masks, kernel)


def _backward(
    geometry: Geometry, operands: tuple[jax.Array, ...], dy: jax.Array
) -> tuple[jax.Array, ...]:
    x, offsets, masks, kernel = operands
    rows, columns, _, features = kernel.shape
    dtype = _sum_dtype(x)
    pixels = padded_pixels(x, geometry.deformable_groups)
    step = steps(x.shape, geometry.deformable_groups)
    taps = _by_group(kernel, geometry.groups)
    samples = _samples(geometry, x, offsets, masks, (rows, columns))
    cotangents = _in_blocks(dy.reshape(-1, geometry.groups, features // geometry.groups))

    def block(
        carry: tuple[jax.Array, jax.Array], inputs: tuple[tuple[Corners, jax.Array], jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], SampleGradients]:
        dx, dkernel = carry
        samples, dy = inputs

        def add_tap(
            dx: jax.Array, tap: tuple[Corners, jax.Array, jax.Array]
        ) -> tuple[jax.Array, tuple[jax.Array, SampleGradients]]:
            at, mask, weights = tap
            values = corner_pixels(pixels, at, step)
            sampled = _sampled(at, mask, values).astype(x.dtype)
            sampled = sampled.reshape(dy.shape[0], *taps.shape[1:3])
            dweights = _contract("ngc,ngf->gcf", sampled, dy, dtype)
            dsampled = _contract("ngf,gcf->ngc", dy, weights, dtype).reshape(values[0].shape)
            factors = [mask * weight for weight in bilinear_weights(at)]
            dx = add_to_pixels(dx, at, step, factors, dsampled)
            return dx, (dweights, sample_gradients(at, mask, values, dsampled))

        dx, (dweights, gradients) = lax.scan(add_tap, dx, (*samples, taps))
        return (dx, dkernel + dweights), gradients

    totals = (jnp.zeros(pixels.shape, dtype), jnp.zeros(taps.shape, dtype))
    (dx, dkernel), gradients = lax.scan(block, totals, (samples, cotangents))
    drow, dcolumn, dmasks = (
        _by_output(array, geometry.deformable_groups, masks.shape) for array in gradients
    )
    doffsets = jnp.stack([drow, dcolumn], axis=-1).reshape(offsets.shape)
    return (
        without_padding(dx, x.shape).astype(x.dtype),
        doffsets.astype(offsets.dtype),
        dmasks.astype(masks.dtype),
        dkernel.swapaxes(1, 2).reshape(kernel.shape).astype(kernel.dtype),
    )


convolve_deformed.defvjp(_forward, _backward)


def _sum_dtype(x: jax.Array) -> jax.typing.DTypeLike:
    return jnp.float64 if x.dtype == jnp.float64 else jnp.float32


def _contract(
    equation: str, lhs: jax.Array, rhs: jax.Array, dtype: jax.typing.DTypeLike
) -> jax.Array:
    """Computes a product of matrices for each group, the axis ``g`` of ``equation``."""
    *operands, result = equation.replace("->", ",").split(",")
    axes = [letters.index("g") for letters in operands]
    if lhs.shape[axes[0]] > 1:
        return jnp.einsum(equation, lhs, rhs, preferred_element_type=dtype)
    # XLA takes almost twice as long for a batch of one product as for the product.
    lhs, rhs = (array.squeeze(axis) for array, axis in zip((lhs, rhs), axes, strict=True))
    product = jnp.einsum(equation.replace("g", ""), lhs, rhs, preferred_element_type=dtype)
    return jnp.expand_dims(product, result.index("g"))


def _by_group(kernel: jax.Array, groups: int) -> jax.Array:
    """Arranges a kernel ``[kh, kw, C / groups, F]`` as ``[K, groups, C / groups, F / groups]``."""
    rows, columns, channels, features = kernel.shape
    kernel = kernel.reshape(rows * columns, channels, groups, features // groups)
    return kernel.swapaxes(1, 2)


def _sampled(at: Corners, mask: jax.Array, values: list[jax.Array]) -> jax.Array:
    """Interpolates samples from their 2x2 pixels and multiplies them by their masks."""
    return weighted_sum([mask * weight for weight in bilinear_weights(at)], values)


def _samples(
    geometry: Geometry,
    x: jax.Array,
    offsets: jax.Array,
    masks: jax.Array,
    kernel_size: tuple[int, int],
) -> tuple[Corners, jax.Array]:
    """The corners and the masks of all samples, each ``[blocks, K, S]``."""
    rows, columns = kernel_size
    height, width = geometry.output_size(x, kernel_size)
    shape = (x.shape[0], height, width, geometry.deformable_groups, rows * columns)
    offsets = offsets.reshape(*shape, 2)

    def positions(axis: int, tap: jax.Array) -> jax.Array:
        first = index(axis) * geometry.stride - geometry.padding
        return (first + tap * geometry.dilation).astype(offsets.dtype) + offsets[..., axis - 1]

    index = functools.partial(lax.broadcasted_iota, jnp.int32, shape)
    tap = index(4)
    at = corners(positions(1, tap // columns), positions(2, tap % columns), x.shape)
    at, masks = jax.tree.map(_by_tap, (at, masks.reshape(shape)))

    def to_sum_dtype(array: jax.Array) -> jax.Array:
        return array.astype(_sum_dtype(x))

    return Corners(at.first, *map(to_sum_dtype, at[1:])), to_sum_dtype(masks)


def _by_tap(array: jax.Array) -> jax.Array:
    """Arranges ``[B, H', W', deformable_groups, K]`` as ``[blocks, K, S]``."""
    groups, taps = array.shape[-2:]
    blocks = _in_blocks(array.reshape(-1, groups, taps))
    return jnp.moveaxis(blocks, 3, 1).reshape(blocks.shape[0], taps, -1)


def _by_output(array: jax.Array, groups: int, shape: tuple[int, ...]) -> jax.Array:
    """Arranges ``[blocks, K, S]`` as ``[B, H', W', deformable_groups * K]``, the given shape."""
    blocks, taps, _ = array.shape
    array = jnp.moveaxis(array.reshape(blocks, taps, -1, groups), 1, 3)
    return _joined(array.reshape(blocks, -1, groups * taps), shape[:3])


def _in_blocks(array: jax.Array) -> jax.Array:
    """Divides the first axis into blocks of equal size, the last one padded with zeros."""
    count = array.shape[0]
    blocks = max(1, -(-count // _OUTPUTS_PER_BLOCK))  # one without outputs for an empty batch
    size = -(-count // blocks)
    array = jnp.pad(array, ((0, blocks * size - count), *[(0, 0)] * (array.ndim - 1)))
    return array.reshape(blocks, size, *array.shape[1:])


def _joined(blocks: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Joins blocks ``[blocks, n, C]`` to a map ``[*size, C]``, without the padding."""
    batch, height, width = size
    channels = blocks.shape[2]
    joined = blocks.reshape(-1, channels)[: batch * height * width]
    return joined.reshape(batch, height, width, channels)
