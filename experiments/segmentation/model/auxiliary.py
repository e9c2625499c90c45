"""An auxiliary head on C4, whose loss helps to train the backbone (reference 47)."""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from experiments.segmentation.model.config import SegmenterConfig
from experiments.segmentation.model.layers import Classifier, ConvNormReLU


class AuxiliaryHead(nn.Module):
    """A 3x3 convolution to ``auxiliary_channels``, and a classifier.

    With 256 channels, ResNet-50 and 150 classes the head has 2,398,358 parameters.

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
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch height width num_classes"]:
        """Maps C4 to float32 logits of its size, ``[B, H, W, num_classes]``.

        Args:
            x: the map C4, ``[B, H, W, C]``.
            train: whether BatchNorm uses the statistics of the batch, and channels are dropped.
        """
        config = self.config
        channels = config.auxiliary_channels or max(1, config.channels // 2)
        hidden = ConvNormReLU(config, channels, 3, self.dtype, self.axis_name, name="hidden")
        classifier = Classifier(self.num_classes, config.dropout, name="classifier")
        return classifier(hidden(x, train), train)
