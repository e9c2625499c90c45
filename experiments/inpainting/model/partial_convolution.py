"""Layers for maps with pixels that are not valid: partial convolution and masked CARAFE++.

A map has a mask. It is 0 where nothing is known, as in a hole, and 1 where everything is known. A
value in between is the valid fraction of the input from which the pixel was computed. In all
layers, the features of a pixel with mask 0 do not influence any other pixel.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from carafe_jax import reassemble
from carafe_jax.linen import CARAFE

# A window with a smaller valid area, or smaller valid weights, counts as empty. Derivatives divide
# by the square of the weights.
_MIN_VALID_AREA = 1e-6
_MIN_VALID_WEIGHT = 1e-12


class Masked(NamedTuple):
    """A map and its mask.

    Attributes:
        features: the map, ``[B, H, W, C]``.
        mask: the mask, float32 in [0, 1], ``[B, H, W, 1]``.
    """

    features: Float[Array, "batch height width channels"]
    mask: Float[Array, "batch height width 1"]


class PartialConv(nn.Module):
    """Partial convolution (reference 26, section 3.1).

    Let ``W`` be the kernel, and ``X``, ``M`` and ``1`` the features, the mask, repeated over the
    channels, and a mask of ones in a window. Then the new features and the new mask are::

        y = W (X * M) sum(1) / sum(M) + b      m = min(1, sum(M))       if sum(M) > 0
        y = 0                                  m = 0                    otherwise

    Pixels outside the map are not valid, so the area beyond the border is like a hole. Several maps
    are convolved as if concatenated, each with its own mask. In the formula of ``m``, ``sum(M)`` is
    over pixels and maps, not over channels. For masks of zeros and ones, both formulas agree with
    the paper's. A sum below a millionth of a pixel counts as 0.

    Args:
        features: number of output channels.
        kernel_size: side of the kernel, odd.
        strides: stride along both axes.
        dilation: dilation of the kernel.
        use_bias: whether there is a bias ``b``.
        dtype: dtype of the computation; masks are float32.
    """

    features: int
    kernel_size: int
    strides: int = 1
    dilation: int = 1
    use_bias: bool = True
    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(self, *maps: Masked) -> Masked:
        """Convolves one or more maps of one size; the output size is ``ceil(size / strides)``."""
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
        known = pixels > _MIN_VALID_AREA
        ratio = sum(channels) * self.kernel_size**2 / jnp.where(known, weighted, 1.0)
        y = y * ratio.astype(y.dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(y.dtype).reshape(1, 1, 1, -1)
        mask = jnp.where(known, jnp.minimum(pixels, 1.0), 0.0)
        return Masked(jnp.where(known, y, 0), mask)


class MaskedCARAFE(nn.Module):
    """CARAFE++ on a map with a mask; the same kernels reassemble both.

    Let ``w`` be the reassembly kernel of an output pixel, and ``x`` and ``m`` the features and the
    mask under the kernel. With sums over the taps inside the map, the new features and mask are::

        y = sum(w m x) sum(w) / sum(w m)       m' = sum(w m) / sum(w)       if sum(w m) > 0
        y = 0                                  m' = 0                       otherwise

    In float32, a ``sum(w m)`` below a millionth of ``sum(w)`` counts as 0. The kernels are
    predicted from ``m x``. This has the following properties:

    - Features in the hole influence neither outputs nor kernels.
    - The proportions between the kernel's weights on valid taps do not change.
    - With a mask of ones it equals CARAFE++, also at borders, where ``sum(w) < 1``.
    - A window without valid pixels stays a hole.

    The new mask is the fraction of the kernel's weight on valid pixels: the more weight a kernel
    has outside the hole, the more its output counts in the next layer. A binary mask, as in partial
    convolution, would not depend on the kernel, because a softmax is nowhere zero. Section 4.3
    states that the mask is updated with the kernels, but not how. The ratio is from normalised
    convolution: Knutsson and Westin, "Normalized and differential convolution", CVPR 1993.

    Args:
        up: numerator of the scale ``up / down``, as in CARAFE++.
        down: denominator of the scale ``up / down``, as in CARAFE++.
        dtype: dtype of the computation; masks are float32.
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
        # Compare with ``inside``: at a border almost all of a kernel's weight may lie outside the
        # map, and a small sum does not mean that the window is empty.
        known = (seen > _MIN_VALID_AREA * inside) & (seen > _MIN_VALID_WEIGHT)
        seen, inside = jnp.where(known, seen, 1.0), jnp.where(known, inside, 1.0)
        features = apply(valid)
        features = jnp.where(known, features * (inside / seen).astype(features.dtype), 0)
        return Masked(features, jnp.where(known, seen / inside, 0.0))
