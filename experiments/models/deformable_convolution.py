"""Modulated deformable convolution ("DCNv2", reference 53)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from carafe_jax.convolution import convolve

_HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


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
    """Convolves with taps at predicted positions, each scaled by a predicted mask.

    Args:
        x: feature map ``[B, H, W, C]``.
        offsets: float32 offset of each tap in pixels, ``[B, H', W', deformable_groups * K * 2]``
            for the ``K`` taps of the kernel: deformable groups one after the other, in each the
            taps in row-major order, for each tap its row and its column offset.
        masks: factor of each tap, ``[B, H', W', deformable_groups * K]``.
        kernel: kernel ``[kh, kw, C / groups, F]``.
        stride: stride along both axes.
        padding: padding on each side of both axes, in pixels.
        dilation: distance between neighbouring taps, in pixels.
        groups: number of groups of the convolution.
        deformable_groups: number of channel groups, each with offsets and masks of its own.

    Returns:
        A map ``[B, H', W', F]`` in the dtype of ``x``.
    """
    batch, height, width, channels = x.shape
    rows, columns, _, features = kernel.shape
    size = offsets.shape[1:3]
    taps = rows * columns
    offsets = offsets.reshape(batch, *size, deformable_groups, taps, 2)
    masks = masks.reshape(batch, *size, deformable_groups, taps)
    values = x.reshape(batch, height * width, deformable_groups, -1)
    row = jnp.arange(size[0], dtype=jnp.float32) * stride - padding
    column = jnp.arange(size[1], dtype=jnp.float32) * stride - padding
    total = jnp.zeros((batch, *size, features), jnp.float32)
    for tap in range(taps):
        y = row[None, :, None, None] + dilation * (tap // columns) + offsets[..., tap, 0]
        z = column[None, None, :, None] + dilation * (tap % columns) + offsets[..., tap, 1]
        sampled = _bilinear(values, y, z, (height, width)) * masks[..., tap, None]
        sampled = sampled.reshape(batch, *size, channels).astype(x.dtype)
        total += jax.lax.conv_general_dilated(
            sampled,
            kernel[tap // columns, tap % columns][None, None],
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
            preferred_element_type=jnp.float32,
        )
    return total.astype(x.dtype)


def _bilinear(
    values: Float[Array, "batch pixels deformable_groups group_channels"],
    row: Float[Array, "batch out_height out_width deformable_groups"],
    column: Float[Array, "batch out_height out_width deformable_groups"],
    size: tuple[int, int],
) -> Float[Array, "batch out_height out_width deformable_groups group_channels"]:
    """Samples maps; a sample counts only strictly within one pixel of the map."""
    height, width = size
    counts = (row > -1) & (row < height) & (column > -1) & (column < width)
    top, left = jnp.floor(row), jnp.floor(column)
    result: jax.Array | float = 0.0
    for down in (0, 1):
        for right in (0, 1):
            i, j = (top + down).astype(jnp.int32), (left + right).astype(jnp.int32)
            inside = counts & (i >= 0) & (i < height) & (j >= 0) & (j < width)
            weight = (1 - jnp.abs(row - top - down)) * (1 - jnp.abs(column - left - right))
            index = jnp.clip(i, 0, height - 1) * width + jnp.clip(j, 0, width - 1)
            flat = index.reshape(index.shape[0], -1, index.shape[3])
            picked = jnp.take_along_axis(values, flat[..., None], axis=1)
            picked = picked.reshape(*index.shape, -1).astype(jnp.float32)
            result += jnp.where(inside, weight, 0.0)[..., None] * picked
    return jnp.asarray(result)


class ModulatedDeformableConv(nn.Module):
    """Modulated deformable convolution with a 3x3 convolution that predicts offsets and masks."""

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
        return modulated_deformable_convolution(
            x,
            offsets,
            nn.sigmoid(masks),
            kernel.astype(x.dtype),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            deformable_groups=self.deformable_groups,
        )
