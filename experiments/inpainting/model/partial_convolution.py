"""Layers for maps of which some pixels are not valid: partial convolution and masked CARAFE++.

A map comes with a mask: 0 where nothing is known, such as in a hole, 1 where all is, and between
them how much of what a pixel was made of was valid. No layer lets the features of a pixel of mask 0
reach any other.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from carafe_jax import reassemble
from carafe_jax.linen import CARAFE

# Below the first, a window counts as empty; and below the second, because derivatives divide by its
# square.
_LEAST_VALID = 1e-6
_LEAST_WEIGHT = 1e-12


class Masked(NamedTuple):
    """A map and its mask.

    Attributes:
        features: ``[B, H, W, C]``.
        mask: float32 ``[B, H, W, 1]`` in [0, 1].
    """

    features: Float[Array, "batch height width channels"]
    mask: Float[Array, "batch height width 1"]


class PartialConv(nn.Module):
    """Partial convolution (reference 26, section 3.1).

    With ``W`` the kernel over a window, ``X`` the features there, ``M`` the mask, repeated over the
    channels, and ``1`` a mask of ones, all of the window's size::

        y = W (X * M) sum(1) / sum(M) + b      m = min(1, sum(M))       where sum(M) > 0
        y = 0                                  m = 0                    elsewhere

    Taps outside the map are taken as not valid, and so the border is a hole of its own kind.
    Several maps are convolved as if concatenated, each with its mask. ``sum(M)`` of the second
    formula is over pixels and maps, not channels; for masks of zeros and ones both formulas are the
    paper's. Less than a millionth of a pixel counts as 0.

    Args:
        features: output channels.
        kernel_size: odd side of the kernel.
        strides: of both axes.
        dilation: of the kernel.
        use_bias: whether ``b`` is there.
        dtype: of the computation; the mask's is float32.
    """

    features: int
    kernel_size: int
    strides: int = 1
    dilation: int = 1
    use_bias: bool = True
    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(self, *maps: Masked) -> Masked:
        """Convolves one or more maps of one size; the result's is ``ceil(size / strides)``."""
        reach = self.dilation * (self.kernel_size // 2)
        padding = ((reach, reach), (reach, reach))
        size = (self.kernel_size, self.kernel_size)
        valid = [x.features * x.mask.astype(x.features.dtype) for x in maps]
        y = nn.Conv(
            self.features,
            size,
            strides=self.strides,
            padding=padding,
            kernel_dilation=self.dilation,
            use_bias=False,
            dtype=self.dtype,
            name="conv",
        )(jnp.concatenate(valid, axis=-1))

        def window_sum(mask: jax.Array) -> jax.Array:
            return jax.lax.conv_general_dilated(
                mask,
                jnp.ones((*size, 1, 1)),
                (self.strides, self.strides),
                padding,
                rhs_dilation=(self.dilation, self.dilation),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                precision=jax.lax.Precision.HIGHEST,
            )

        sums = [window_sum(x.mask) for x in maps]  # [B, H', W', 1]
        channels = [x.features.shape[-1] for x in maps]
        weighted = sum(n * s for n, s in zip(channels, sums, strict=True))
        pixels = sum(sums)
        known = pixels > _LEAST_VALID
        ratio = sum(channels) * self.kernel_size**2 / jnp.where(known, weighted, 1.0)
        y = y * ratio.astype(y.dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(y.dtype).reshape(1, 1, 1, -1)
        mask = jnp.where(known, jnp.minimum(pixels, 1.0), 0.0)
        return Masked(jnp.where(known, y, 0), mask)


class MaskedCARAFE(nn.Module):
    """CARAFE++ on a map with a mask, which the same kernels carry on.

    With ``w`` the reassembly kernel of a target pixel, ``x`` and ``m`` features and mask of its
    window, and sums over the taps inside the map::

        y = sum(w m x) sum(w) / sum(w m)       m' = sum(w m) / sum(w)       where sum(w m) > 0
        y = 0                                  m' = 0                       elsewhere

    where in float32 less than a millionth of ``sum(w)`` counts as 0, and the kernels are predicted
    from ``m x``. So what lies in the hole adds to no target and
    predicts no kernel; among the taps that are valid the kernel's proportions stay; with a mask of
    ones this is CARAFE++ itself, at borders too, where ``sum(w) < 1``; and a window without
    anything valid stays a hole. The new mask is the share of the kernel that fell on what is valid:
    a kernel that looks away from the hole gives a pixel that counts more in the next layer. A mask
    of zeros and ones, as partial convolution has it, would know nothing of the kernel, because a
    softmax is nowhere zero. (Section 4.3 says that the mask is updated with the kernels, and not
    how. The ratio is that of normalised convolution: Knutsson and Westin, "Normalized and
    differential convolution", CVPR 1993.)

    Args:
        up: as of CARAFE++.
        down: as of CARAFE++.
        dtype: of the computation; the mask's is float32.
    """

    up: int = 1
    down: int = 1
    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Masked) -> Masked:
        """Maps ``[B, H, W, C]`` to ``[B, ceil(H * up / down), ceil(W * up / down), C]``."""
        valid = x.features * x.mask.astype(x.features.dtype)
        layer = CARAFE(up=self.up, down=self.down, dtype=self.dtype, name="carafe")
        kernels = layer.reassembly_kernels(valid)  # [B, H', W', k*k]

        def apply(values: jax.Array) -> jax.Array:
            return reassemble(
                values, kernels, kernel_size=layer.kernel_size, up=self.up, down=self.down
            )

        masks = apply(jnp.concatenate([x.mask, jnp.ones_like(x.mask)], axis=-1))
        seen, inside = masks[..., :1], masks[..., 1:]  # sum(w m), sum(w)
        # At a border almost all of a kernel may lie outside the map: small alone is not empty.
        known = (seen > _LEAST_VALID * inside) & (seen > _LEAST_WEIGHT)
        seen, inside = jnp.where(known, seen, 1.0), jnp.where(known, inside, 1.0)
        features = apply(valid)
        features = jnp.where(known, features * (inside / seen).astype(features.dtype), 0)
        return Masked(features, jnp.where(known, seen / inside, 0.0))
