"""The pyramid pooling module of PSPNet (reference 47), which UperNet has too."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.resamplers.interpolation import resize
from experiments.resamplers.pooling import adaptive_avg_pool
from experiments.resamplers.upsamplers import upsample
from experiments.segmentation.model.config import SegmenterConfig
from experiments.segmentation.model.layers import HE_NORMAL, ConvNormReLU

# Bins along each axis of the pooled maps.
BINS = (1, 2, 3, 6)


class PyramidPooling(nn.Module):
    """Adds the context of four resolutions to a map (section 4.2).

    The map is pooled to 1x1, 2x2, 3x3 and 6x6 bins. Each pooled map passes a 1x1 convolution
    ``bin_{n}`` to ``channels`` and is resized to the size of the map; ``pooling_order`` of the
    config says which of the two steps is first. A 3x3 convolution ``output`` joins the map and the
    four results.

    With the upsampler ``"bilinear"`` the pooled maps are interpolated to the size of the map. The
    other upsamplers double a map: the pooled maps are interpolated to half of the size, rounded
    up, and doubled by ``upsample_{n}`` after the 1x1 convolution. For an odd size the result is
    cropped at its end.

    With ``C`` channels at the input and ``F`` in the config the module has
    ``4 * (C + 2) * F + (9 * (C + 4 * F) + 2) * F`` parameters, 23,073,792 for ResNet-50 and 512
    channels. CARAFE++ adds ``4 * 90,532 = 362,128``.

    Args:
        config: sizes and choices of the network.
        dtype: dtype of the computation; the default is the common dtype of input and parameters.
        axis_name: name of the mapped axis over which ``"sync_batch"`` averages statistics.
    """

    config: SegmenterConfig
    dtype: jax.typing.DTypeLike | None = None
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch height width features"]:
        """Maps ``[B, H, W, C]`` to ``[B, H, W, channels]``.

        Args:
            x: map ``[B, H, W, C]`` of any size.
            train: whether BatchNorm uses the statistics of the batch.
        """
        config = self.config
        height, width = x.shape[1:3]
        is_bilinear = config.ppm == "bilinear"
        size = (height, width) if is_bilinear else (-(-height // 2), -(-width // 2))
        layer = functools.partial(
            ConvNormReLU, config, config.channels, dtype=self.dtype, axis_name=self.axis_name
        )
        maps = [x]
        for bins in BINS:
            y = adaptive_avg_pool(x, (bins, bins))
            convolution = layer(name=f"bin_{bins}")
            if config.pooling_order == "resize_first":
                y = convolution(resize(y, size), train)
            else:
                y = resize(convolution(y, train), size)
            if not is_bilinear:
                y = upsample(
                    y,
                    config.ppm,
                    name=f"upsample_{bins}",
                    size=(height, width),
                    guide=x,
                    carafe=config.carafe,
                    kernel_init=HE_NORMAL,
                    dtype=self.dtype,
                )
            maps.append(y.astype(x.dtype))
        return layer(3, name="output")(jnp.concatenate(maps, axis=-1), train)
