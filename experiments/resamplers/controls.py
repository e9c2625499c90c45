"""Upsamplers that separate what CARAFE++ has: kernels from content, learned kernels, and capacity.

They are not in the paper. Compared with CARAFE++ of the same sizes,

- :class:`StaticKernelUpsample` learns kernels that do not depend on the content;
- :class:`EncodedBoxUpsample` has the same convolutions and the same parameters, but their result is
  added to a box filter instead of becoming its kernels.

Both start as a box filter, near which CARAFE++ starts too. With ``normalizer="sigmoid"``, whose
weights do not sum to 1, all weights of :class:`StaticKernelUpsample` start at 1/2: a box filter
times ``k**2 / 2``. CARAFE++ starts near it.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from carafe_jax import reassemble, reassembly_kernels
from carafe_jax.linen import KernelPredictor
from experiments.resamplers.carafe_config import CarafeConfig
from experiments.resamplers.convolutions import depth_to_space

_UP = 2


class StaticKernelUpsample(nn.Module):
    """Upsampling with one learned kernel for each of the 2x2 outputs of an input pixel.

    The kernels are the same at every pixel and for every image. They have ``4 * k**2`` parameters,
    the logits, which start at zero. For each target, the reassembly has ``(2 * k**2 - 1) * C``
    operations. The four kernels are normalised once.

    Args:
        config: side of the kernels and normaliser; the other fields have no effect.
    """

    config: CarafeConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch double_height double_width channels"]:
        """Maps ``[B, H, W, C]`` to ``[B, 2 * H, 2 * W, C]`` in the dtype of ``x``."""
        k = self.config.kernel_size
        logits = self.param("logits", nn.initializers.zeros, (_UP**2 * k**2,))
        kernels = reassembly_kernels(
            jnp.zeros((1, 1, 1, 1), x.dtype),
            logits.reshape(1, 1, 1, -1),
            kernel_size=k,
            up=_UP,
            normalizer=self.config.normalizer,
        )  # [1, 2, 2, k**2]
        return reassemble(x, jnp.tile(kernels, (*x.shape[:-1], 1)), kernel_size=k, up=_UP)


class EncodedBoxUpsample(nn.Module):
    """A box filter, plus values that the convolutions of CARAFE++ predict.

    The submodule ``kernel_predictor`` is the predictor of CARAFE++. Its ``4 * k**2`` channels
    become ``k**2`` channels of the upsampled map. They are added to the channels of the
    box-filtered map; channel ``c`` gets the predicted channel ``c % k**2``. So the layer has the
    parameters of CARAFE++ and reads the same pixels, but its kernels do not depend on the content.

    Args:
        config: sizes of CARAFE++; the normaliser has no effect.
        dtype: dtype of the convolutions; the default is the common dtype of input and parameters.
    """

    config: CarafeConfig
    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch double_height double_width channels"]:
        """Maps ``[B, H, W, C]`` to ``[B, 2 * H, 2 * W, C]`` in the dtype of ``x``."""
        k = self.config.kernel_size
        predictor = KernelPredictor(
            up=_UP,
            kernel_size=k,
            compressed_channels=self.config.compressed_channels,
            encoder_size=self.config.encoder_size,
            dtype=self.dtype,
            name="kernel_predictor",
        )
        values = depth_to_space(predictor(x), _UP)  # [B, 2 * H, 2 * W, k**2]
        kernels = jnp.full(values.shape, 1 / k**2, x.dtype)
        box = reassemble(x, kernels, kernel_size=k, up=_UP)
        channels = x.shape[-1]
        repeated = jnp.tile(values, -(-channels // k**2))[..., :channels]
        return box + repeated.astype(box.dtype)
