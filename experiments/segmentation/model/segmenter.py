"""Networks for semantic segmentation: a backbone, a head and an auxiliary head."""

from collections.abc import Callable

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from experiments.models.resnet import ResNet
from experiments.resamplers.checks import checked_pixels
from experiments.segmentation.model.auxiliary import AuxiliaryHead
from experiments.segmentation.model.config import SegmenterConfig
from experiments.segmentation.model.psanet import PSANetHead
from experiments.segmentation.model.pspnet import PSPNetHead
from experiments.segmentation.model.upernet import UperNetHead

_HEADS: dict[str, Callable[..., nn.Module]] = {
    "upernet": UperNetHead,
    "pspnet": PSPNetHead,
    "psanet": PSANetHead,
}


class Segmenter(nn.Module):
    """Predicts the class of each pixel, at a lower resolution than the image.

    Submodules are ``backbone``, ``head`` and, if the config has one, ``auxiliary``. Parameters with
    512 channels and 150 classes, without and with the auxiliary head of 2,398,358:

    ============================================  ==========  ==============
    network                                          without  with auxiliary
    ============================================  ==========  ==============
    UperNet, ResNet-50 with the stem ``"deep"``   64,222,294      66,620,652
    UperNet, ResNet-50 with the stem ``"v1c"``    64,117,750      66,516,108
    PSPNet, ResNet-50 with the stem ``"deep"``    46,782,550      49,180,908
    PSPNet, ResNet-50 with the stem ``"v1c"``     46,678,006      49,076,364
    PSANet, ResNet-50 with the stem ``"deep"``    50,875,478      53,273,836
    ============================================  ==========  ==============

    ResNet-101 has 18,992,128 parameters more. CARAFE++ as every upsampler of UperNet adds 1,003,624
    to the head, and as the downsampler 70,767 to a backbone with the stem ``"deep"``.

    Args:
        config: sizes and choices of the network.
        num_classes: number of classes.
        dtype: dtype of the computation, float32 or bfloat16; the default is the common dtype of
            input and parameters. Parameters, statistics and logits are float32.
        axis_name: name of the mapped axis over which ``"sync_batch"`` averages statistics.
    """

    config: SegmenterConfig
    num_classes: int
    dtype: jax.typing.DTypeLike | None = None
    axis_name: str | None = None

    def setup(self) -> None:
        config, dtype, axis_name = self.config, self.dtype, self.axis_name
        self.backbone = ResNet(config.backbone, None, dtype, axis_name)
        self.head = _HEADS[config.architecture](config, self.num_classes, dtype, axis_name)
        if config.auxiliary:
            self.auxiliary = AuxiliaryHead(config, self.num_classes, dtype, axis_name)

    def __call__(
        self, x: Float[Array, "batch height width 3"], train: bool = False
    ) -> Float[Array, "batch rows columns num_classes"]:
        """Maps images to logits.

        Args:
            x: normalised RGB images ``[B, H, W, 3]``, of any size.
            train: whether BatchNorm uses the statistics of the batch and updates the running
                averages in the collection ``batch_stats``, and channels are dropped with the random
                numbers ``dropout``.

        Returns:
            Float32 logits ``[B, ceil(H / s), ceil(W / s), num_classes]``, where the stride ``s`` is
            4 for UperNet, and the output stride of the backbone for PSPNet and PSANet.

        Raises:
            ValueError: ``x`` does not have rank 4 or is empty, or a norm is ``"sync_batch"`` and
                there is no ``axis_name``.
        """
        return self.head(self.backbone.features(checked_pixels("x", x), train), train)

    def layers(
        self, x: Float[Array, "batch height width 3"], train: bool = False
    ) -> tuple[
        Float[Array, "batch rows columns num_classes"],
        Float[Array, "batch c4_rows c4_columns num_classes"] | None,
    ]:
        """Applies every layer, for training and to initialise the parameters.

        Args:
            x: images, as for :meth:`__call__`.
            train: mode of BatchNorm and dropout, as for :meth:`__call__`.

        Returns:
            The logits, and the float32 logits of the auxiliary head in the size of C4, or ``None``
            if there is no auxiliary head.

        Raises:
            ValueError: as for :meth:`__call__`.
        """
        maps = self.backbone.features(checked_pixels("x", x), train)
        auxiliary = self.auxiliary(maps[-2], train) if self.config.auxiliary else None
        return self.head(maps, train), auxiliary
