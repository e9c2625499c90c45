"""PatchGAN, a discriminator with one logit for each patch (reference 20, section 3.2.2)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.inpainting.model.patchgan_config import PatchGANConfig
from experiments.resamplers.checks import checked_map

_SLOPE = 0.2


class PatchGAN(nn.Module):
    """4x4 convolutions that downsample to a map with one logit for each patch.

    Args:
        config: sizes and choices of the network.
        dtype: dtype of the computation; logits are float32.
    """

    config: PatchGANConfig
    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], update: bool = False
    ) -> Float[Array, "batch rows columns"]:
        """Judges images.

        Args:
            x: images, ``[B, H, W, C]``.
            update: whether spectral normalisation takes a step of its power iterations, whose
                vectors are in the collection ``batch_stats``.

        Returns:
            Logits ``[B, ceil(H / 2**layers), ceil(W / 2**layers)]``, high for patches that look
            real.

        Raises:
            ValueError: ``x`` does not have rank 4.
        """
        x = checked_map("x", x)  # InstanceNorm takes the mean over all axes but first and last
        config = self.config

        def convolution(
            x: jax.Array,
            features: int,
            strides: int,
            name: str,
            *,
            bias: bool = True,
            padding: tuple[int, int] = (1, 2),
        ) -> jax.Array:
            layer: nn.Module = nn.Conv(
                features,
                (4, 4),
                strides=strides,
                padding=(padding, padding),
                use_bias=bias,
                dtype=self.dtype,
                kernel_init=nn.initializers.normal(0.02),
                name=name,
            )
            if config.spectral:
                spectral = nn.SpectralNorm(layer, name=f"{name}_spectral")
                return spectral(x, update_stats=update)
            return layer(x)

        normalizes = config.norm == "instance"
        for layer in range(config.layers + 1):
            features = config.width * min(2**layer, 8)
            strides = 2 if layer < config.layers else 1
            normalized = normalizes and layer > 0
            x = convolution(x, features, strides, f"conv_{layer}", bias=not normalized)
            if normalized:
                x = nn.InstanceNorm(dtype=self.dtype, name=f"norm_{layer}")(x)
            x = nn.leaky_relu(x, _SLOPE)
        # A 4x4 kernel with stride 2 is centred on the pixels that it downsamples. With stride 1 it
        # is off by half a pixel. The second convolution with stride 1
        # has the opposite padding, which cancels the offset.
        logits = convolution(x, 1, 1, "head", padding=(2, 1))  # [B, rows, columns, 1]
        return logits[..., 0].astype(jnp.float32)
