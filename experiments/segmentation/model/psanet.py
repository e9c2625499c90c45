"""The head of PSANet (reference 48) with both directions of attention."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from carafe_jax.convolution import convolve
from experiments.resamplers.interpolation import resize
from experiments.segmentation.model.config import SegmenterConfig
from experiments.segmentation.model.layers import HE_NORMAL, Classifier, ConvNormReLU
from experiments.segmentation.model.psamask import Direction, psamask

_SHRINK = 2
_DIRECTIONS: tuple[Direction, ...] = ("collect", "distribute")


class Attention(nn.Module):
    """Point-wise spatial attention in one direction, on a map of half the size.

    A 1x1 convolution ``reduce`` to ``channels``; bilinear interpolation to half of the size; 1x1
    convolutions ``hidden`` and ``masks`` to the masks of relative positions. Each pixel of the
    result is the mean of all pixels of the reduced map with the softmax of its row in
    :func:`.psamask.psamask` as weights. The softmax includes the zeros outside of the masks.

    With ``C`` channels at the input and ``F`` in the config it has
    ``(C + 2) * F + (F + 2) * F + F * side**2`` parameters, 3,095,040 for ResNet-50, 512 channels
    and masks of 59x59.

    Args:
        config: sizes and choices of the network.
        direction: ``"collect"`` or ``"distribute"``.
        dtype: dtype of the computation; the default is the common dtype of input and parameters.
        axis_name: name of the mapped axis over which ``"sync_batch"`` averages statistics.
    """

    config: SegmenterConfig
    direction: Direction
    dtype: jax.typing.DTypeLike | None = None
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch half_height half_width features"]:
        """Maps ``[B, H, W, C]`` to ``[B, (H - 1) // 2 + 1, (W - 1) // 2 + 1, channels]``."""
        config = self.config
        layer = functools.partial(
            ConvNormReLU, config, config.channels, dtype=self.dtype, axis_name=self.axis_name
        )
        reduced = layer(name="reduce")(x, train)
        height, width = ((side - 1) // _SHRINK + 1 for side in x.shape[1:3])
        reduced = resize(reduced, (height, width), align_corners=True)
        masks = nn.Conv(
            config.mask_side**2,
            (1, 1),
            use_bias=False,
            kernel_init=HE_NORMAL,
            dtype=self.dtype,
            conv_general_dilated=convolve,
            name="masks",
        )(layer(name="hidden")(reduced, train))
        weights = psamask(masks, config.mask_side, self.direction).astype(jnp.float32)
        weights = jax.nn.softmax(weights, axis=-1).astype(reduced.dtype)  # [B, target, source]
        sources = reduced.reshape(reduced.shape[0], height * width, config.channels)
        return jnp.einsum("bts,bsc->btc", weights, sources).reshape(reduced.shape)


class PSANetHead(nn.Module):
    """Attention to all pixels in two directions, joined with C5, and a classifier.

    The results of the attention modules ``collect`` and ``distribute`` are concatenated. A 1x1
    convolution ``projection`` to the channels of C5 and bilinear interpolation to its size follow.
    A 3x3 convolution ``output`` joins the result with C5. Both interpolations align the corners,
    as in the official implementation, whose maps have odd sizes.

    With 512 channels, masks of 59x59, ResNet-50 and 150 classes the head has 27,243,670 parameters.

    Args:
        config: sizes and choices of the network.
        num_classes: number of classes.
        dtype: dtype of the computation; the default is the common dtype of input and parameters.
        axis_name: name of the mapped axis over which ``"sync_batch"`` averages statistics.
    """

    config: SegmenterConfig
    num_classes: int
    dtype: jax.typing.DTypeLike | None = None
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, maps: tuple[Float[Array, "batch rows columns channels"], ...], train: bool = False
    ) -> Float[Array, "batch height width num_classes"]:
        """Maps C5 to logits of its size.

        Args:
            maps: maps ``[B, H, W, C]``; only the last one, C5, is used.
            train: whether BatchNorm uses the statistics of the batch, and channels are dropped.

        Returns:
            Float32 logits ``[B, H, W, num_classes]``.
        """
        config, x = self.config, maps[-1]
        options = {"dtype": self.dtype, "axis_name": self.axis_name}
        attended = [
            Attention(config, direction, name=direction, **options)(x, train)
            for direction in _DIRECTIONS
        ]
        y = jnp.concatenate(attended, axis=-1)
        y = ConvNormReLU(config, x.shape[-1], name="projection", **options)(y, train)
        y = resize(y, (x.shape[1], x.shape[2]), align_corners=True).astype(x.dtype)
        y = jnp.concatenate([x, y], axis=-1)
        y = ConvNormReLU(config, config.channels, 3, name="output", **options)(y, train)
        return Classifier(self.num_classes, config.dropout, name="classifier")(y, train)
