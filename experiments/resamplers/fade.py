r"""FADE (Lu et al., "FADE: Fusing the Assets of Decoder and Encoder", ECCV 2022; IJCV 2024).

Kernels are predicted from the map and from a *guide*, a map of the size of the result from an
earlier layer. A 1x1 convolution compresses each of both, and one 3x3 convolution, which both share,
encodes them; the encoded map is doubled by nearest interpolation. The kernels are the softmax of
the sum. They reassemble the map as in CARAFE, and a gate, predicted from the map, mixes the result
with the guide:

.. math::
    y = g \odot \mathit{guide} + (1 - g) \odot \mathrm{reassemble}(x), \qquad
    g = \mathrm{nearest}(\sigma(w^\top x + b)).

FADE-Lite compresses to the 25 logits, and encodes them by a depthwise convolution.

The paper calls the sum of the encoded maps the *semi-shift convolution*. It gives two ways to
compute it. This is the one that encodes both maps and then doubles one of them.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from carafe_jax import reassemble
from carafe_jax.convolution import convolve
from experiments.resamplers.checks import checked_map
from experiments.resamplers.guides import checked_guide, nearest_to

KERNEL_SIZE = 5
COMPRESSED_CHANNELS = 64
_INIT = nn.initializers.xavier_uniform()


class FADE(nn.Module):
    """Upsampling with kernels from a map and its guide, and a gate; see the module.

    With ``C`` channels and ``D`` compressed channels, costs ``2 * C * D + D`` parameters of the
    compressors, ``25 * (9 * D + 1)`` of the encoder and ``C + 1`` of the gate. FADE-Lite has
    ``50 * C + 25`` of the compressors, 250 of the encoder and ``C + 1`` of the gate.

    Args:
        lite: whether the encoder is depthwise (FADE-Lite).
        dtype: dtype of the convolutions; the default is the common dtype of input and parameters.
    """

    lite: bool = False
    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        guide: Float[Array, "batch out_height out_width channels"],
    ) -> Float[Array, "batch out_height out_width channels"]:
        """Maps ``[B, H, W, C]`` to the size of the guide, in the dtype of ``x``.

        Args:
            x: map ``[B, H, W, C]``.
            guide: map ``[B, H', W', C]``, where ``H'`` is ``2 * H`` or ``2 * H - 1``, and ``W'`` is
                ``2 * W`` or ``2 * W - 1``.

        Raises:
            ValueError: ``x`` or ``guide`` does not have rank 4 or a floating-point dtype, or
                ``guide`` has another batch, size or number of channels.
        """
        x = checked_map("x", x)
        guide = checked_guide(x, guide, same_channels=True)
        taps = KERNEL_SIZE**2
        conv = functools.partial(
            nn.Conv, dtype=self.dtype, kernel_init=_INIT, conv_general_dilated=convolve
        )
        compressed = taps if self.lite else COMPRESSED_CHANNELS
        groups = taps if self.lite else 1
        encoder = conv(taps, (3, 3), padding=1, feature_group_count=groups, name="content_encoder")
        of_guide = encoder(conv(compressed, (1, 1), name="guide_compressor")(guide))
        of_map = encoder(conv(compressed, (1, 1), use_bias=False, name="channel_compressor")(x))
        size = (guide.shape[1], guide.shape[2])
        logits = of_guide + nearest_to(size, of_map)  # [B, H', W', 25]
        kernels = nn.softmax(logits.astype(jnp.float32))
        y = reassemble(x, kernels, kernel_size=KERNEL_SIZE, size=size)
        gate = nearest_to(size, nn.sigmoid(conv(1, (1, 1), name="gate")(x))).astype(x.dtype)
        return gate * guide.astype(x.dtype) + (1 - gate) * y
