"""Layers that the heads share."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from carafe_jax.convolution import convolve
from experiments.segmentation.model.config import SegmenterConfig

# He initialisation by fan-in, as in the heads of the official implementation of UperNet.
HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class ConvNormReLU(nn.Module):
    """A convolution of stride 1 without bias, BatchNorm and ReLU.

    Kernels are initialised by He et al. for their fan-in, scales with 1 and biases of BatchNorm
    with 1e-4. With ``C`` channels at its input and a kernel of ``k * k`` taps the layer has
    ``(k * k * C + 2) * features`` parameters.

    Args:
        config: config of the network, whose ``norm`` selects the statistics of BatchNorm.
        features: number of channels of the result.
        size: side ``k`` of the kernel, odd.
        dtype: dtype of the computation; the default is the common dtype of input and parameters.
        axis_name: name of the mapped axis over which ``"sync_batch"`` averages statistics.
    """

    config: SegmenterConfig
    features: int
    size: int = 1
    dtype: jax.typing.DTypeLike | None = None
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch height width features"]:
        """Maps ``[B, H, W, C]`` to ``[B, H, W, features]``.

        Args:
            x: map ``[B, H, W, C]``.
            train: whether BatchNorm uses the statistics of the batch and updates the running
                averages in the collection ``batch_stats``.

        Raises:
            ValueError: ``norm`` is ``"sync_batch"`` and there is no ``axis_name``.
        """
        synchronised = self.config.norm == "sync_batch"
        if synchronised and self.axis_name is None:
            raise ValueError("axis_name must name a mapped axis for norm 'sync_batch', got None")
        x = nn.Conv(
            self.features,
            (self.size, self.size),
            padding=self.size // 2,
            use_bias=False,
            kernel_init=HE_NORMAL,
            dtype=self.dtype,
            conv_general_dilated=convolve,
            name="conv",
        )(x)
        x = nn.BatchNorm(
            use_running_average=not train,
            axis_name=self.axis_name if synchronised else None,
            momentum=0.9,
            epsilon=1e-5,
            bias_init=nn.initializers.constant(1e-4),
            dtype=self.dtype,
            name="bn",
        )(x)
        return nn.relu(x)


class Classifier(nn.Module):
    """Dropout of whole channels, and a 1x1 convolution to logits.

    Has ``(C + 1) * num_classes`` parameters for ``C`` channels. The kernel is initialised by He et
    al. for its fan-in, the bias with 0.

    Args:
        num_classes: number of classes.
        dropout: probability with which a channel of an image is dropped in training.
    """

    num_classes: int
    dropout: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch height width num_classes"]:
        """Maps ``[B, H, W, C]`` to float32 logits ``[B, H, W, num_classes]``.

        Args:
            x: map ``[B, H, W, C]``.
            train: whether channels are dropped, with the random numbers ``dropout``.
        """
        x = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(x)
        return nn.Conv(
            self.num_classes,
            (1, 1),
            kernel_init=HE_NORMAL,
            dtype=jnp.float32,
            conv_general_dilated=convolve,
            name="conv",
        )(x)
