"""Generators that fill holes: Global&Local and the U-Net of Partial Convolution.

Both are U-Nets with configurable resamplers. ``"carafe"`` replaces a strided convolution by
CARAFE++ and a convolution of stride 1, and an upsampling layer by CARAFE++ (section 4.3).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.inpainting.model.generator_blocks import (
    BlockOptions,
    ConvBlock,
    FeatureMap,
    enlarge,
    fit,
)
from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.inpainting.model.partial_convolution import Masked
from experiments.resamplers.checks import checked_map

_DILATIONS = (2, 4, 8, 16)
_WIDEST = 8  # ratio of the channels of the U-Net's widest levels to the channels of its first level


class _Generator(nn.Module):
    """Base class of the networks, which predict images from images with holes.

    Args:
        config: sizes and choices of the network.
        axis_name: name of the mapped axis over which ``"sync_batch"`` computes statistics.
        dtype: dtype of the computation.
    """

    config: GeneratorConfig
    axis_name: str | None = None
    dtype: jax.typing.DTypeLike = jnp.float32

    @property
    def options(self) -> BlockOptions:
        """Options that all blocks share."""
        config = self.config
        return BlockOptions(
            axis_name=self.axis_name if config.norm == "sync_batch" else None,
            dtype=self.dtype,
        )

    def network_input(self, image: jax.Array, mask: jax.Array) -> FeatureMap:
        """The input of the first layer, without the pixels in the hole."""
        image, mask = checked_map("image", image), jnp.asarray(mask)
        if mask.shape != (*image.shape[:-1], 1):
            raise ValueError(
                f"mask must be [B, H, W, 1] for image of shape {image.shape}, got {mask.shape}"
            )
        visible = (1 - mask) * image
        if self.config.convolution == "partial":
            return Masked(visible.astype(self.dtype), 1 - mask)
        return jnp.concatenate([visible, mask], axis=-1).astype(self.dtype)

    def prediction(self, x: FeatureMap) -> jax.Array:
        """Converts the last layer's output to an image in [-1, 1]."""
        features = x.features if isinstance(x, Masked) else x
        return jnp.tanh(features.astype(jnp.float32))


class GlobalLocal(_Generator):
    """The completion network of Global&Local (reference 15, Table 1), for images of any size.

    The encoder starts with a 5x5 convolution. Each coarser level has two convolutions, the first of
    which halves the map; the coarsest level has a third. Four dilated convolutions and two plain
    ones follow. In the decoder, each finer level has a convolution that doubles the map, and a
    convolution that also reads the encoder's map if there are skips. The resampling submodules are
    named ``down_1`` to ``down_n`` and ``up_n`` to ``up_1``, by the coarser of their two levels.
    """

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "batch height width 3"],
        mask: Float[Array, "batch height width 1"],
        train: bool = False,
    ) -> Float[Array, "batch height width 3"]:
        """Predicts images.

        Args:
            image: images in [-1, 1], ``[B, H, W, 3]``; their pixels in the hole are ignored.
            mask: masks, 1 in the hole, ``[B, H, W, 1]``.
            train: whether BatchNorm uses the batch's statistics and updates its averages.

        Returns:
            Predicted images, float32 in [-1, 1], ``[B, H, W, 3]``.
        """
        config = self.config
        block = functools.partial(ConvBlock, options=self.options, norm=config.norm != "none")
        encode = {"use_running_average": not train or config.freeze_encoder_norm}
        decode = {"use_running_average": not train}
        widths = [config.width * 2**level for level in range(config.levels + 1)]
        lowest = config.levels

        x = block(widths[0], kernel_size=5, name="stem")(self.network_input(image, mask), **encode)
        skips = [x]
        for level in range(1, lowest + 1):
            down = block(widths[level], downsampler=config.downsampler, name=f"down_{level}")
            x = block(widths[level], name=f"encode_{level}")(down(x, **encode), **encode)
            skips.append(x)
        x = block(widths[-1], name="bottom_1")(x, **encode)
        for dilation in _DILATIONS:
            x = block(widths[-1], dilation=dilation, name=f"dilated_{dilation}")(x, **encode)
        for number in (2, 3):
            x = block(widths[-1], name=f"bottom_{number}")(x, **decode)
        for level in range(lowest, 0, -1):
            skip = skips[level - 1]
            up = block(widths[level - 1], upsampler=config.upsampler, name=f"up_{level}")
            x = fit(up(x, guide=skip, **decode), skip)
            features = widths[level - 1] if level > 1 else config.width // 2
            maps = (x, skip) if config.skips else (x,)
            x = block(features, name=f"decode_{level}")(*maps, **decode)
        head = ConvBlock(3, self.options, norm=False, activation=None, name="head")
        return self.prediction(head(x, **decode))


class UNet(_Generator):
    """The U-Net of Partial Convolution (reference 26, section 4.1), for images of any size.

    In the encoder, convolutions of 7x7, 5x5, 5x5 and then 3x3 halve the map, with BatchNorm after
    all but the first. In the decoder, each level doubles the map, concatenates it with the
    encoder's map, or on the last level with the input, and applies a convolution. Submodules are
    named as in :class:`GlobalLocal`.
    """

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "batch height width 3"],
        mask: Float[Array, "batch height width 1"],
        train: bool = False,
    ) -> Float[Array, "batch height width 3"]:
        """Predicts images; see :meth:`GlobalLocal.__call__`."""
        config, options = self.config, self.options
        normalizes = config.norm != "none"
        encode = {"use_running_average": not train or config.freeze_encoder_norm}
        decode = {"use_running_average": not train}
        widths = [config.width * min(2**level, _WIDEST) for level in range(config.levels)]

        x = self.network_input(image, mask)
        skips = [x]
        for level, width in enumerate(widths, start=1):
            down = ConvBlock(
                width,
                options,
                kernel_size={1: 7, 2: 5, 3: 5}.get(level, 3),
                downsampler=config.downsampler,
                norm=normalizes and level > 1,
                name=f"down_{level}",
            )
            x = down(x, **encode)
            skips.append(x)
        leaky = functools.partial(nn.leaky_relu, negative_slope=0.2)
        for level in range(config.levels, 0, -1):
            skip = skips[level - 1]
            up = enlarge(x, config.upsampler, self.dtype, name=f"up_{level}", guide=skip)
            x = fit(up, skip)
            last = level == 1
            decoder = ConvBlock(
                3 if last else widths[level - 2],
                options,
                norm=normalizes and not last,
                activation=None if last else leaky,
                name=f"decode_{level}",
            )
            x = decoder(x, skip, **decode)
        return self.prediction(x)


Generator = GlobalLocal | UNet


def build_generator(
    config: GeneratorConfig, dtype: jax.typing.DTypeLike, axis_name: str | None
) -> Generator:
    """The network of a config.

    Args:
        config: sizes and choices of the network.
        dtype: dtype of the computation.
        axis_name: name of the mapped axis over which ``"sync_batch"`` computes statistics.
    """
    network = {"global_local": GlobalLocal, "unet": UNet}[config.architecture]
    return network(config, axis_name, dtype)
