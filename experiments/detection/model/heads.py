"""Heads on regions: the box head of Faster R-CNN and the mask head of Mask R-CNN."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from carafe_jax.convolution import convolve
from experiments.detection.model.config import BoxHeadConfig, MaskHeadConfig
from experiments.resamplers.upsamplers import upsample

_HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_XAVIER = nn.initializers.xavier_uniform()


class BoxHead(nn.Module):
    """Two fully connected layers, a classifier and a regressor.

    Args:
        config: sizes of the head.
        num_classes: number of classes without the background.
        dtype: dtype of the hidden layers.
    """

    config: BoxHeadConfig
    num_classes: int
    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch rois size size channels"]
    ) -> tuple[Float[Array, "batch rois logits"], Float[Array, "batch rois boxes 4"]]:
        """Maps regions ``[B, R, S, S, C]`` to logits and deltas, both in float32.

        Returns:
            Logits ``[B, R, K + 1]``, the background last, and deltas ``[B, R, K, 4]``, or
            ``[B, R, 1, 4]`` for class-agnostic boxes.
        """
        x = _checked_regions(x)
        x = x.reshape(*x.shape[:2], -1)
        for name in ("fc1", "fc2"):
            dense = nn.Dense(self.config.features, kernel_init=_XAVIER, dtype=self.dtype, name=name)
            x = nn.relu(dense(x))
        x = x.astype(jnp.float32)
        normal = nn.initializers.normal
        logits = nn.Dense(self.num_classes + 1, kernel_init=normal(0.01), name="classes")(x)
        count = 1 if self.config.class_agnostic else self.num_classes
        deltas = nn.Dense(4 * count, kernel_init=normal(0.001), name="boxes")(x)
        return logits, deltas.reshape(*x.shape[:2], count, 4)


class MaskHead(nn.Module):
    """3x3 convolutions, an upsampler, and a 1x1 convolution.

    Args:
        config: sizes and upsampler of the head.
        num_classes: number of classes, and of masks of a region unless masks are class-agnostic.
        dtype: dtype of the hidden convolutions and the upsampler.
    """

    config: MaskHeadConfig
    num_classes: int
    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch rois size size channels"]
    ) -> Float[Array, "batch rois double double masks"]:
        """Maps regions ``[B, R, S, S, C]`` to float32 logits ``[B, R, 2 * S, 2 * S, K]``."""
        config = self.config
        x = _checked_regions(x)
        batch, rois = x.shape[:2]
        x = x.reshape(batch * rois, *x.shape[2:])
        for index in range(config.layers):
            x = nn.Conv(
                config.features,
                (3, 3),
                padding=1,
                kernel_init=_HE_NORMAL,
                dtype=self.dtype,
                conv_general_dilated=convolve,
                name=f"conv{index + 1}",
            )(x)
            x = nn.relu(x)
        x = upsample(
            x,
            config.upsampler,
            name="upsample",
            carafe=config.carafe,
            deconvolution_size=2,  # as in Mask R-CNN (reference 12)
            kernel_init=_HE_NORMAL,
            dtype=self.dtype,
        )
        if config.upsampler == "deconvolution":
            x = nn.relu(x)
        masks = 1 if config.class_agnostic else self.num_classes
        x = nn.Conv(
            masks,
            (1, 1),
            kernel_init=_HE_NORMAL,
            dtype=jnp.float32,
            conv_general_dilated=convolve,
            name="masks",
        )(x)
        return x.reshape(batch, rois, *x.shape[1:])


def _checked_regions(x: jax.Array) -> jax.Array:
    x = jnp.asarray(x)
    if x.ndim != 5:
        raise ValueError(f"x must be [B, R, S, S, C], got shape {x.shape}")
    return x
