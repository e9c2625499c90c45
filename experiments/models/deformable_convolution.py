"""Modulated deformable convolution ("DCNv2", reference 53)."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from carafe_jax.convolution import convolve
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

_HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# Largest number of outputs in a block. The outputs are computed in blocks, and each block one tap
# after the other, so that the samples of a single tap of a block are in memory.
_OUTPUTS_PER_BLOCK = 2048


class _Geometry(NamedTuple):
    """Settings of a convolution; see :func:`modulated_deformable_convolution`."""

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


def modulated_deformable_convolution(
    x: Float[Array, "batch height width channels"],
    offsets: Float[Array, "batch out_height out_width offsets"],
    masks: Float[Array, "batch out_height out_width masks"],
    kernel: Float[Array, "rows columns group_channels features"],
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    deformable_groups: int = 1,
) -> Float[Array, "batch out_height out_width features"]:
    r"""Convolves with taps at predicted positions, each scaled by a predicted mask.

    The output at ``p`` is the sum over the ``K`` taps ``k`` of the kernel (Zhu et al., *Deformable
    ConvNets v2: More Deformable, Better Results*, CVPR 2019, equation 1; reference 53):

    .. math::
        y(p) = \sum_k m_k(p) \, w_k^\top
            x(\text{stride} \, p - \text{padding} + \text{dilation} \, k + \Delta_k(p))

    A value between pixels is interpolated bilinearly, with zeros outside of the map. A sample
    counts only if its row is greater than -1 and less than ``H``, and its column is greater than -1
    and less than ``W``. Otherwise it is zero, and so are its gradients, also exactly at -1.

    One output takes ``K * (2 * F / groups + 7) * C + K * F`` operations besides the positions and
    weights of its samples. Positions have the precision of the offsets, and sums are computed in
    float32, or in float64 if ``x`` is float64. Samples are computed for one tap of at most 2048
    outputs at a time, and again in the backward pass. There are no forward-mode derivatives.

    Args:
        x: feature map ``[B, H, W, C]``.
        offsets: offset of each tap in pixels, ``[B, H', W', deformable_groups * K * 2]``, in
            float32 or float64: deformable groups one after the other, in each the taps in row-major
            order, for each tap its row and its column offset.
        masks: factor of each tap, ``[B, H', W', deformable_groups * K]``, in any floating dtype:
            deformable groups one after the other, in each the taps in row-major order.
        kernel: kernel ``[kh, kw, C / groups, F]`` in the dtype of ``x``.
        stride: stride along both axes.
        padding: padding on each side of both axes, in pixels.
        dilation: distance between neighbouring taps, in pixels.
        groups: number of groups of the convolution.
        deformable_groups: number of channel groups, each with offsets and masks of its own.

    Returns:
        A map ``[B, H', W', F]`` in the dtype of ``x``.

    Raises:
        ValueError: a shape or a dtype does not fit, a number of groups does not divide the
            channels, ``groups`` does not divide the features, or a setting is too small.
    """
    geometry = _Geometry(stride, padding, dilation, groups, deformable_groups)
    _check_settings(x.shape, kernel.shape[-1], geometry)
    _check_arrays(x, offsets, masks, kernel, geometry)
    return _convolve(geometry, x, offsets, masks, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(
    geometry: _Geometry, x: jax.Array, offsets: jax.Array, masks: jax.Array, kernel: jax.Array
) -> jax.Array:
    rows, columns, _, features = kernel.shape
    size = geometry.output_size(x, (rows, columns))
    dtype = _sum_dtype(x)
    pixels = padded_pixels(x, geometry.deformable_groups)
    step = steps(*x.shape[1:3], geometry.deformable_groups)
    taps = _by_group(kernel, geometry.groups)

    def block(_: None, samples: tuple[Corners, jax.Array]) -> tuple[None, jax.Array]:
        outputs = samples[1].shape[1] // geometry.deformable_groups

        def add_tap(
            total: jax.Array, tap: tuple[Corners, jax.Array, jax.Array]
        ) -> tuple[jax.Array, None]:
            at, mask, weights = tap
            sampled = _sampled(at, mask, corner_pixels(pixels, at, step))
            sampled = sampled.astype(x.dtype).reshape(outputs, geometry.groups, -1)
            return total + _contract("ngc,gcf->ngf", sampled, weights, dtype), None

        total = jnp.zeros((outputs, geometry.groups, features // geometry.groups), dtype)
        total, _ = lax.scan(add_tap, total, (*samples, taps))
        return None, total.reshape(outputs, features).astype(x.dtype)

    _, y = lax.scan(block, None, _samples(geometry, x, offsets, masks, (rows, columns)))
    return _joined(y, (x.shape[0], *size))


def _convolve_forward(
    geometry: _Geometry, x: jax.Array, offsets: jax.Array, masks: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return _convolve(geometry, x, offsets, masks, kernel), (x, offsets, masks, kernel)


def _convolve_backward(
    geometry: _Geometry, operands: tuple[jax.Array, ...], dy: jax.Array
) -> tuple[jax.Array, ...]:
    x, offsets, masks, kernel = operands
    rows, columns, _, features = kernel.shape
    dtype = _sum_dtype(x)
    pixels = padded_pixels(x, geometry.deformable_groups)
    step = steps(*x.shape[1:3], geometry.deformable_groups)
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
            sampled = sampled.reshape(dy.shape[0], geometry.groups, -1)
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


_convolve.defvjp(_convolve_forward, _convolve_backward)


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
    geometry: _Geometry,
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
    at = corners(positions(1, tap // columns), positions(2, tap % columns), x.shape[1:3])
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
    blocks = -(-count // _OUTPUTS_PER_BLOCK)
    size = -(-count // blocks)
    array = jnp.pad(array, ((0, blocks * size - count), *[(0, 0)] * (array.ndim - 1)))
    return array.reshape(blocks, size, *array.shape[1:])


def _joined(blocks: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Joins blocks ``[blocks, n, C]`` to a map ``[*size, C]``, without the padding."""
    batch, height, width = size
    joined = blocks.reshape(-1, blocks.shape[2])[: batch * height * width]
    return joined.reshape(batch, height, width, -1)


def _check_settings(shape: tuple[int, ...], features: int, geometry: _Geometry) -> None:
    if len(shape) != 4:
        raise ValueError(f"x must be [B, H, W, C], got {shape}")
    for name, least in (
        ("stride", 1),
        ("padding", 0),
        ("dilation", 1),
        ("groups", 1),
        ("deformable_groups", 1),
    ):
        value = getattr(geometry, name)
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    channels, groups = shape[3], geometry.groups
    if channels % groups or features % groups:
        raise ValueError(
            f"groups must divide {channels} channels and {features} features, got {groups}"
        )
    if channels % geometry.deformable_groups:
        raise ValueError(
            f"deformable_groups must divide {channels} channels, got {geometry.deformable_groups}"
        )


def _check_arrays(
    x: jax.Array, offsets: jax.Array, masks: jax.Array, kernel: jax.Array, geometry: _Geometry
) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x must have a floating dtype, got {x.dtype}")
    group_channels = x.shape[3] // geometry.groups
    if kernel.ndim != 4 or kernel.shape[2] != group_channels or 0 in kernel.shape:
        raise ValueError(
            f"kernel must be [kh, kw, C / groups, F] with C / groups = {group_channels}, "
            f"got {kernel.shape}"
        )
    if kernel.dtype != x.dtype:
        raise ValueError(f"kernel must have the dtype of x, {x.dtype}, got {kernel.dtype}")
    rows, columns = kernel.shape[:2]
    size = geometry.output_size(x, (rows, columns))
    if min(size) < 1:
        reach = tuple(geometry.dilation * (taps - 1) + 1 for taps in (rows, columns))
        raise ValueError(
            f"x with its padding must be at least as large as the dilated kernel, {reach}, "
            f"got {x.shape} and padding {geometry.padding}"
        )
    samples = geometry.deformable_groups * rows * columns
    for name, array, channels, meaning in (
        ("offsets", offsets, 2 * samples, "deformable_groups * K * 2"),
        ("masks", masks, samples, "deformable_groups * K"),
    ):
        expected = (x.shape[0], *size, channels)
        if array.shape != expected:
            raise ValueError(
                f"{name} must be [B, H', W', {meaning}] = {expected}, got {array.shape}"
            )
    if offsets.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(f"offsets must be float32 or float64, got {offsets.dtype}")
    if not jnp.issubdtype(masks.dtype, jnp.floating):
        raise ValueError(f"masks must have a floating dtype, got {masks.dtype}")


class ModulatedDeformableConv(nn.Module):
    """Modulated deformable convolution, with a convolution that predicts its offsets and masks.

    The convolution ``conv_offset`` computes in float32, because offsets in 16 bits are not accurate
    to a fraction of a pixel on a large map. The sigmoid of its last third of features are the
    masks. It starts at zero, so a new layer computes half of a convolution with its ``kernel``.

    The parameters are ``kernel``, ``[k, k, C / groups, features]``, and of ``conv_offset`` a kernel
    ``[k, k, C, 3 * deformable_groups * k * k]`` and a bias. For ``k = 3`` and one deformable group
    that is ``243 * C + 27`` parameters more than a convolution has.

    See :func:`modulated_deformable_convolution` for the equation and the errors.

    Attributes:
        features: number of output channels.
        kernel_size: side of both kernels.
        stride: stride of both convolutions along both axes.
        padding: padding on each side of both axes, in pixels.
        dilation: distance between neighbouring taps, in pixels.
        groups: number of groups of the deformable convolution.
        deformable_groups: number of channel groups, each with offsets and masks of its own.
        kernel_init: initializer of ``kernel``.
        dtype: dtype of the computation and of the result; by default the common dtype of the input
            and the parameters.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: int = 1
    dilation: int = 1
    groups: int = 1
    deformable_groups: int = 1
    kernel_init: jax.nn.initializers.Initializer = _HE_NORMAL
    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width features"]:
        """Maps ``[B, H, W, C]`` to ``[B, H', W', features]``."""
        geometry = _Geometry(
            self.stride, self.padding, self.dilation, self.groups, self.deformable_groups
        )
        _check_settings(x.shape, self.features, geometry)
        taps = self.kernel_size**2
        predicted = nn.Conv(
            3 * self.deformable_groups * taps,
            (self.kernel_size, self.kernel_size),
            strides=self.stride,
            padding=self.padding,
            kernel_dilation=self.dilation,
            kernel_init=nn.initializers.zeros,
            dtype=jnp.float32,
            conv_general_dilated=convolve,
            name="conv_offset",
        )(x)
        offsets, masks = jnp.split(predicted, [2 * self.deformable_groups * taps], axis=-1)
        shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        return modulated_deformable_convolution(
            x, offsets, nn.sigmoid(masks), kernel, **geometry._asdict()
        )
