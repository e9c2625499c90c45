"""MobileNetV2 (Sandler et al., 2018) as a frozen backbone."""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from carafe_jax.convolution import convolve

# Strides and channels of C2 to C5.
FEATURE_STRIDES = (4, 8, 16, 32)
FEATURE_CHANNELS = (24, 32, 96, 320)

_STEM = 32
_HEAD = 1280
_CLASSES = 1000
# Expansion, channels, number of blocks and first stride of each stage: Table 2 of Sandler et al.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_BLOCKS = [
    (expansion, channels, stride if index == 0 else 1)
    for expansion, channels, blocks, stride in _STAGES
    for index in range(blocks)
]


class _ConvBN(nn.Module):
    """A convolution without bias, BatchNorm with running averages, and ReLU6 if it is requested.

    Args:
        features: channels of the result.
        size: side of the kernel, which is odd.
        stride: stride along both axes.
        depthwise: whether each channel has a kernel of its own.
        activates: whether ReLU6 follows the normalisation.
    """

    features: int
    size: int = 1
    stride: int = 1
    depthwise: bool = False
    activates: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(
            self.features,
            (self.size, self.size),
            strides=self.stride,
            # Never "SAME", which is not centred for a stride and an even size.
            padding=self.size // 2,
            feature_group_count=self.features if self.depthwise else 1,
            use_bias=False,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            conv_general_dilated=convolve,
            name="conv",
        )(x)
        x = nn.BatchNorm(use_running_average=True, epsilon=1e-5, name="bn")(x)
        return jax.nn.relu6(x) if self.activates else x


class InvertedResidual(nn.Module):
    """A 1x1 convolution to more channels, a depthwise 3x3 one, and a 1x1 one without ReLU6.

    The input is added to the result if both have the same shape. With an ``expansion`` of 1 there
    is no first convolution.

    Args:
        expansion: channels of the depthwise convolution, as a multiple of the input channels.
        features: channels of the result.
        stride: stride of the depthwise convolution, 1 or 2.
    """

    expansion: int
    features: int
    stride: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width features"]:
        """Maps ``[B, H, W, C]`` to ``[B, ceil(H / stride), ceil(W / stride), features]``."""
        channels = self.expansion * x.shape[-1]
        y = x if self.expansion == 1 else _ConvBN(channels, name="expand")(x)
        y = _ConvBN(channels, 3, self.stride, depthwise=True, name="depthwise")(y)
        y = _ConvBN(self.features, activates=False, name="project")(y)
        return x + y if self.stride == 1 and x.shape[-1] == self.features else y


class MobileNetV2(nn.Module):
    """MobileNetV2 of width 1 with 1000 classes, the same network as torchvision's.

    The network is for use with pretrained weights that are not trained further: BatchNorm always
    uses the running averages, there is no dropout, and no ``train`` argument. The caller keeps the
    variables out of the optimiser. :func:`experiments.weights.mobilenets.load_mobilenet` reads
    torchvision's weights.

    The network is a stem ``stem``, 17 inverted residual blocks ``block1`` to ``block17``, a 1x1
    convolution ``head`` to 1280 channels, and a classifier ``classifier`` on the mean of the map.
    It has 3,504,872 parameters, 1,811,712 of them without ``head`` and ``classifier``, which
    ``features`` does not use.

    Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018,
    Tables 1 and 2. The epsilon of BatchNorm and the padding of 1 on all sides of the 3x3
    convolutions are torchvision's.
    """

    def setup(self) -> None:
        self.head = _ConvBN(_HEAD)
        self.classifier = nn.Dense(_CLASSES, kernel_init=nn.initializers.normal(0.01))

    def __call__(self, x: Float[Array, "batch height width 3"]) -> Float[Array, "batch 1000"]:
        """Maps images to logits of the 1000 classes of ImageNet, ``[B, 1000]``.

        Args:
            x: normalised RGB images ``[B, H, W, 3]``, of any size; see
                :func:`experiments.models.input_normalization.normalize`, with the default
                ``InputConfig``.

        Raises:
            ValueError: ``x`` is no batch of images with three channels.
        """
        x = self.head(self.features(x)[-1])
        return self.classifier(x.mean(axis=(-3, -2)))

    @nn.compact
    def features(
        self, x: Float[Array, "batch height width 3"]
    ) -> tuple[Float[Array, "batch rows columns channels"], ...]:
        """Maps images to C2, C3, C4 and C5, the outputs of the last block of each stride.

        Args:
            x: normalised RGB images ``[B, H, W, 3]``, of any size; see
                :func:`experiments.models.input_normalization.normalize`, with the default
                ``InputConfig``.

        Returns:
            Four maps ``[B, ceil(H / s), ceil(W / s), C]`` with the strides ``s`` of
            :data:`FEATURE_STRIDES` and the channels of :data:`FEATURE_CHANNELS`. They are the
            outputs of ``block3``, ``block6``, ``block13`` and ``block17``, which no ReLU6 follows.

        Raises:
            ValueError: ``x`` is no batch of images with three channels.
        """
        if x.ndim != 4 or x.shape[-1] != 3:
            raise ValueError(f"x must be [B, H, W, 3], got {x.shape}")
        x = _ConvBN(_STEM, 3, 2, name="stem")(x)
        maps = []
        for index, (expansion, channels, stride) in enumerate(_BLOCKS, 1):
            if stride > 1:
                maps.append(x)
            x = InvertedResidual(expansion, channels, stride, name=f"block{index}")(x)
        return (*maps[1:], x)  # the first map has a stride of 2
