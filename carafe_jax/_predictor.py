"""Sizes and initial values of a layer's predictors, for the Linen and the NNX layers.

The kernel prediction module of section 3.2 is a 1x1 *channel compressor*, a *content encoder* and
a *kernel normaliser*. The first two are convolutions, which each Flax API builds from the
specification in this module. The normaliser is part of :func:`carafe_jax.carafe`.
"""

import dataclasses
from typing import Literal

import numpy as np
from carafe_kernels.geometry import Geometry, Resize, positive_integer
from jax.nn import initializers
from jaxtyping import Float

CompressedChannels = int | None | Literal["auto"]

COMPRESSOR_INIT = initializers.xavier_uniform()
# With logits near zero the kernels are nearly uniform, so training starts close to a box filter.
ENCODER_INIT = initializers.normal(stddev=0.001)
BIAS_INIT = initializers.zeros

# Momentum and epsilon of the optional BatchNorm: the values that are usual for ResNet.
BATCH_NORM_MOMENTUM = 0.9
BATCH_NORM_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class PredictorSpec:
    """Sizes of a kernel predictor.

    Args:
        geometry: geometry of the reassembly whose kernels are predicted.
        compressed_channels: output channels ``C_m`` of the 1x1 compressor; ``None`` leaves the
            compressor out (Table 11); ``"auto"`` is 64 for upsampling and 16 for pure
            downsampling (section 5.1).
        encoder_size: side of the content encoder's kernel, odd; 3 in the paper.
        encoder_dilation: spacing of the encoder's taps.

    Raises:
        ValueError: a field is out of range.
    """

    geometry: Geometry
    compressed_channels: CompressedChannels = "auto"
    encoder_size: int = 3
    encoder_dilation: int = 1

    def __post_init__(self) -> None:
        if self.compressed_channels == "auto":
            object.__setattr__(self, "compressed_channels", 64 if self.geometry.up > 1 else 16)
        labels = {"encoder_size": "encoder_size", "encoder_dilation": "encoder_dilation"}
        if self.compressed_channels is not None:
            labels["compressed_channels"] = "compressed_channels, unless None or 'auto',"
        for name, label in labels.items():
            object.__setattr__(self, name, positive_integer(label, getattr(self, name)))
        if self.encoder_size % 2 == 0:
            raise ValueError(f"encoder_size must be odd, got {self.encoder_size}")

    @property
    def encoder_features(self) -> int:
        """Output channels of the content encoder."""
        return self.geometry.logit_channels

    @property
    def encoder_stride(self) -> int:
        """Stride of the content encoder: it predicts one pixel of logits per cell."""
        return self.geometry.down

    @property
    def encoder_padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Symmetric padding, which centres the logits of cell ``q`` on input ``down * q``.

        The padding ``SAME`` of XLA would centre them on input ``2q + 1`` for stride 2 and an even
        size, because it pads one side less than the other.
        """
        reach = self.encoder_dilation * (self.encoder_size // 2)
        return (reach, reach), (reach, reach)


def offsets(resize: Resize, up: int) -> Float[np.ndarray, "out_height out_width 4"] | None:
    """The inputs of an offset predictor, or ``None`` if no output has an offset.

    At a scale ``s`` output ``i'`` lies at ``u = i' * up / s`` in the field of predicted kernels,
    and takes the kernel ``floor(u)``. Its offset is ``u - floor(u)``.

    Args:
        resize: axes of the map.
        up: factor of the predictor.

    Returns:
        The offset in rows, the offset in columns, ``1 / s`` of the rows and ``1 / s`` of the
        columns, ``[H', W', 4]`` in float32.
    """
    axes = resize.rows, resize.columns
    remainders = [axis.remainders(up) for axis in axes]
    if not any(each.any() for each in remainders):
        return None
    constant = [np.full(resize.size, float(1 / axis.scale)) for axis in axes]
    along = np.meshgrid(*remainders, indexing="ij")
    return np.stack([*along, *constant], axis=-1).astype(np.float32)
