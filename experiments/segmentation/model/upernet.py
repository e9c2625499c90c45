"""The head of UperNet (reference 43) with configurable upsamplers (section 4.2)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.resamplers.interpolation import resize
from experiments.resamplers.methods import Upsampler
from experiments.resamplers.upsamplers import upsample
from experiments.segmentation.model.config import SegmenterConfig
from experiments.segmentation.model.layers import HE_NORMAL, Classifier, ConvNormReLU
from experiments.segmentation.model.pyramid_pooling import PyramidPooling

_FINEST, _COARSEST = 2, 5


class UperNetHead(nn.Module):
    """Pyramid pooling, a top-down pathway, and the fusion of all levels (section 4.2).

    P5 is the result of pyramid pooling, ``ppm``. From there down, the sum at a level is upsampled
    and added to the 1x1 convolution ``lateral_{i}`` of the next finer map; a 3x3 convolution
    ``output_{i}`` of each sum gives P4, P3 and P2.

    For the fusion, ``"bilinear"`` resizes P3, P4 and P5 to the size of P2. The other upsamplers
    double a map: P5 is doubled and concatenated with P4, both are doubled and concatenated with P3,
    and so on. Either way the channels are those of P2, P3, P4 and P5, in this order. A 3x3
    convolution ``fusion`` reduces them to ``channels``, and a 1x1 convolution gives the logits.

    Upsamplers other than ``"bilinear"`` are submodules ``fpn_upsample_{i}`` and
    ``fuse_upsample_{i}``, where ``i`` is the level of their input. They crop their result at its
    end to the size of the next finer map.

    With 512 channels, ResNet-50 and 150 classes the head has 40,590,486 parameters. CARAFE++ adds
    ``64 * C + 57,764`` at a map of ``C`` channels: 362,128 in pyramid pooling, 271,596 in the
    top-down pathway, and 369,900 in the fusion, whose maps have 512, 1024 and 1536 channels.

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
        """Maps C2, C3, C4 and C5 to logits of the size of C2.

        Args:
            maps: four maps ``[B, H, W, C]``, finest first, each half the size of the previous one,
                rounded up, as from :meth:`ResNet.features`.
            train: whether BatchNorm uses the statistics of the batch, and channels are dropped.

        Returns:
            Float32 logits ``[B, H, W, num_classes]``.
        """
        config = self.config
        layer = functools.partial(
            ConvNormReLU, config, config.channels, dtype=self.dtype, axis_name=self.axis_name
        )
        pooling = PyramidPooling(config, self.dtype, self.axis_name, name="ppm")
        levels = {_COARSEST: pooling(maps[-1], train)}
        total = levels[_COARSEST]
        for i in range(_COARSEST - 1, _FINEST - 1, -1):
            lateral = layer(name=f"lateral_{i}")(maps[i - _FINEST], train)
            name = f"fpn_upsample_{i + 1}"
            total = lateral + self._upsample(total, config.fpn, name, lateral)
            levels[i] = layer(3, name=f"output_{i}")(total, train)
        fused = layer(3, name="fusion")(self._joined(levels), train)
        return Classifier(self.num_classes, config.dropout, name="classifier")(fused, train)

    def _joined(self, levels: dict[int, jax.Array]) -> jax.Array:
        """Concatenates all levels at the size of the finest one."""
        method = self.config.fuse
        if method == "bilinear":
            size = _size(levels[_FINEST])
            return jnp.concatenate([resize(levels[i], size) for i in sorted(levels)], axis=-1)
        joined = levels[_COARSEST]
        for i in range(_COARSEST - 1, _FINEST - 1, -1):
            above = self._upsample(joined, method, f"fuse_upsample_{i + 1}", levels[i])
            joined = jnp.concatenate([levels[i], above], axis=-1)
        return joined

    def _upsample(self, x: jax.Array, method: Upsampler, name: str, guide: jax.Array) -> jax.Array:
        """Upsamples a map to the size of its guide."""
        if method == "bilinear":
            return resize(x, _size(guide))
        return upsample(
            x,
            method,
            name=name,
            size=_size(guide),
            guide=guide,
            carafe=self.config.carafe,
            kernel_init=HE_NORMAL,
            dtype=self.dtype,
        )


def _size(x: jax.Array) -> tuple[int, int]:
    return x.shape[1], x.shape[2]
