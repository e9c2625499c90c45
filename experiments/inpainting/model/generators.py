"""Generators that fill holes: Global&Local and the U-Net of Partial Convolution.

Both are U-Nets in which each resampler is a choice. With ``"carafe"``, CARAFE++ and a convolution
of stride 1 take the place of a strided convolution, and CARAFE++ that of an upsampling layer
(section 4.3).
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
_WIDEST = 8  # channels of the U-Net's widest levels, in those of the first


class _Generator(nn.Module):
    """Maps images with holes to predictions of them; subclasses are the networks.

    Args:
        config: sizes.
        axis_name: mapped axis over which ``"sync_batch"`` gathers statistics.
        dtype: of the computation.
    """

    config: GeneratorConfig
    axis_name: str | None = None
    dtype: jax.typing.DTypeLike = jnp.float32

    @property
    def options(self) -> BlockOptions:
        """What all blocks share."""
        config = self.config
        return BlockOptions(
            axis_name=self.axis_name if config.norm == "sync_batch" else None,
            dtype=self.dtype,
        )

    def seen(self, image: jax.Array, mask: jax.Array) -> FeatureMap:
        """What the network is given: nothing of the hole."""
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
        """The image that the last map stands for."""
        features = x.features if isinstance(x, Masked) else x
        return jnp.tanh(features.astype(jnp.float32))


class GlobalLocal(_Generator):
    """The completion network of Global&Local (reference 15, Table 1), for images of any size.

    A convolution of 5x5; on each level below two convolutions, the first of which halves the map,
    and a third on the lowest; four dilated convolutions; two more, and on each level above one that
    doubles the map and one that takes in the encoder's, if there are skips. Names of submodules:
    ``down_1`` to ``down_n`` and ``up_n`` to ``up_1``, by the coarser of two levels.
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
            image: ``[B, H, W, 3]`` in [-1, 1]; what it holds in the hole has no influence.
            mask: ``[B, H, W, 1]``, 1 in the hole.
            train: BatchNorm takes the batch's statistics, and updates its averages.

        Returns:
            ``[B, H, W, 3]``, float32 in [-1, 1].
        """
        config = self.config
        block = functools.partial(ConvBlock, options=self.options, norm=config.norm != "none")
        encode = {"use_running_average": not train or config.freeze_encoder_norm}
        decode = {"use_running_average": not train}
        widths = [config.width * 2**level for level in range(config.levels + 1)]
        lowest = config.levels

        x = block(widths[0], kernel_size=5, name="stem")(self.seen(image, mask), **encode)
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
            x = fit(up(x, **decode), skip)
            features = widths[level - 1] if level > 1 else config.width // 2
            maps = (x, skip) if config.skips else (x,)
            x = block(features, name=f"decode_{level}")(*maps, **decode)
        head = ConvBlock(3, self.options, norm=False, activation=None, name="head")
        return self.prediction(head(x, **decode))


class UNet(_Generator):
    """The U-Net of Partial Convolution (reference 26, section 4.1), for images of any size.

    Convolutions of 7x7, 5x5, 5x5 and then 3x3 halve the map, with BatchNorm after all but the
    first; on each level above the map is doubled, concatenated with the encoder's, at last with the
    input, and convolved. Names of submodules as in :class:`GlobalLocal`.
    """

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "batch height width 3"],
        mask: Float[Array, "batch height width 1"],
        train: bool = False,
    ) -> Float[Array, "batch height width 3"]:
        """Predicts images; as :meth:`GlobalLocal.__call__`."""
        config, options = self.config, self.options
        normalizes = config.norm != "none"
        encode = {"use_running_average": not train or config.freeze_encoder_norm}
        decode = {"use_running_average": not train}
        widths = [config.width * min(2**level, _WIDEST) for level in range(config.levels)]

        x = self.seen(image, mask)
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
            x = fit(enlarge(x, config.upsampler, self.dtype, name=f"up_{level}"), skip)
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
        config: its sizes.
        dtype: of the computation.
        axis_name: mapped axis over which ``"sync_batch"`` gathers statistics.
    """
    network = {"global_local": GlobalLocal, "unet": UNet}[config.architecture]
    return network(config, axis_name, dtype)
