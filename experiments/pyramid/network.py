"""A feature pyramid with one prediction, on the maps of a frozen backbone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from carafe_jax.convolution import convolve
from experiments.pyramid.network_config import PyramidNetworkConfig
from experiments.resamplers.upsamplers import upsample

# The levels of the pyramid; level i has a stride of 2**i.
LEVELS = (2, 3, 4, 5)

_HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class PyramidNetwork(nn.Module):
    """Maps C2 to C5 of a backbone to logits with a stride of 4.

    Each map passes ``lateral_{i}``, a 1x1 convolution and BatchNorm, which gives the levels one
    scale: the maps of a frozen backbone have different ones. From level 5 down, the sum at a level
    is doubled by ``upsample_{i}`` and added to the lateral of the next finer level. The sum at
    level 2 passes ``output``, a 3x3 convolution, BatchNorm and ReLU, and the 1x1 convolution
    ``classifier``. Only level 2 is classified: what the network learns from C3, C4 and C5 reaches
    the logits through the upsamplers alone.

    With ``C`` channels and MobileNetV2's 24, 32, 96 and 320 channels there are
    ``9 * C**2 + (472 + 10 + num_classes) * C + num_classes`` parameters, and those of three
    upsamplers; see :func:`experiments.resamplers.upsamplers.upsample`.

    Args:
        config: sizes and choices of the network.
        num_classes: number of classes.
        dtype: dtype of the computation, float32 or bfloat16, to which the maps are cast.
    """

    config: PyramidNetworkConfig
    num_classes: int
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, maps: tuple[Float[Array, "batch _h _w _c"], ...], train: bool = False
    ) -> Float[Array, "batch height width classes"]:
        """Maps C2, C3, C4 and C5 to float32 logits with the height and width of C2.

        Args:
            maps: four maps ``[B, H, W, C]``, finest first, each half the size of the previous one,
                rounded up.
            train: whether BatchNorm uses the statistics of the batch and updates the running
                averages in the collection ``batch_stats``.

        Raises:
            ValueError: there are not four maps, or a map is not half the size of the one before.
        """
        if len(maps) != len(LEVELS):
            raise ValueError(f"maps must be the {len(LEVELS)} maps C2 to C5, got {len(maps)}")
        config = self.config
        laterals = {
            level: self._conv_norm(x.astype(self.dtype), 1, train, f"lateral_{level}")
            for level, x in zip(LEVELS, maps, strict=True)
        }
        x = laterals[LEVELS[-1]]
        for level in reversed(LEVELS[1:]):
            below = laterals[level - 1]
            x = below + upsample(
                x,
                config.upsampler,
                name=f"upsample_{level}",
                size=(below.shape[1], below.shape[2]),
                guide=below,
                carafe=config.carafe,
                dtype=self.dtype,
            )
        x = nn.relu(self._conv_norm(x, 3, train, "output"))
        return nn.Conv(
            self.num_classes,
            (1, 1),
            kernel_init=_HE_NORMAL,
            dtype=jnp.float32,
            conv_general_dilated=convolve,
            name="classifier",
        )(x)

    def _conv_norm(self, x: jax.Array, size: int, train: bool, name: str) -> jax.Array:
        """A convolution of stride 1 without bias, and BatchNorm."""
        x = nn.Conv(
            self.config.channels,
            (size, size),
            padding=size // 2,
            use_bias=False,
            kernel_init=_HE_NORMAL,
            dtype=self.dtype,
            conv_general_dilated=convolve,
            name=f"{name}_conv",
        )(x)
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            name=f"{name}_bn",
        )(x)
