"""The head of PSPNet (reference 47)."""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from experiments.segmentation.model.config import SegmenterConfig
from experiments.segmentation.model.layers import Classifier
from experiments.segmentation.model.pyramid_pooling import PyramidPooling


class PSPNetHead(nn.Module):
    """Pyramid pooling of C5 and a classifier.

    With 512 channels, ResNet-50 and 150 classes the head has 23,150,742 parameters.

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
        pooling = PyramidPooling(self.config, self.dtype, self.axis_name, name="ppm")
        classifier = Classifier(self.num_classes, self.config.dropout, name="classifier")
        return classifier(pooling(maps[-1], train), train)
