"""A U-Net in which every down- and upsampler is a choice."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.engine.config import check
from experiments.resamplers import Downsample, Downsampler, Upsample, Upsampler


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Sizes of a :class:`UNet`.

    Attributes:
        downsampler: between the levels of the encoder.
        upsampler: between the levels of the decoder.
        widths: channels of the levels, from the full resolution downwards.
    """

    downsampler: Downsampler = "carafe"
    upsampler: Upsampler = "carafe"
    widths: tuple[int, ...] = (16, 32, 48, 64)

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for widths that make no U-Net."""
        fits = len(self.widths) >= 2 and min(self.widths) >= 1
        check(fits, "widths", "two or more integers of at least 1", self.widths)


class UNet(nn.Module):
    """Encoder and decoder with skip connections (reference 36), for maps of any size.

    The lowest level has two dilated convolutions, which widen what a pixel sees. Names of
    submodules: ``down_1`` to ``down_n`` and ``up_n`` to ``up_1``, by the coarser of two levels.

    Args:
        config: sizes and resamplers.
        features: output channels.
    """

    config: UNetConfig
    features: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width features"]:
        """Maps ``[B, H, W, C]`` to ``[B, H, W, features]``."""
        top, *lower = self.config.widths
        x = nn.relu(nn.Conv(top, (3, 3), name="stem")(x))
        skips = [x]
        for level, width in enumerate(lower, start=1):
            x = Downsample(self.config.downsampler, width, name=f"down_{level}")(x)
            x = nn.relu(x)
            skips.append(x)
        for dilation in (2, 4):
            convolution = nn.Conv(
                x.shape[-1], (3, 3), kernel_dilation=dilation, name=f"dilated_{dilation}"
            )
            x = x + nn.relu(convolution(x))
        for level in range(len(lower), 0, -1):
            skip = skips[level - 1]
            _, height, width, channels = skip.shape
            x = nn.relu(Upsample(self.config.upsampler, channels, name=f"up_{level}")(x))
            x = x[:, :height, :width]  # an odd side was rounded up on the way down
            x = jnp.concatenate([x, skip], axis=-1)
            x = nn.relu(nn.Conv(channels, (3, 3), name=f"merge_{level}")(x))
        return nn.Conv(self.features, (3, 3), name="head")(x)
