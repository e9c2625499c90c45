"""Flax layers other than CARAFE that rescale a map."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.benchmarks.cases import Case


class Bilinear(nn.Module):
    """Bilinear upsampling, then a 3x3 convolution."""

    up: int
    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        size = batch, height * self.up, width * self.up, channels
        return nn.Conv(self.channels, (3, 3), dtype=self.dtype)(
            jax.image.resize(x, size, "bilinear")
        )


class MaxPool(nn.Module):
    """Max pooling with 3x3 windows."""

    down: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.max_pool(x, (3, 3), (self.down, self.down), "SAME")


def alternatives(case: Case) -> dict[str, nn.Module]:
    """Layers by name that have the scale of a case and keep the number of channels."""
    dtype = jnp.dtype(case.dtype)
    if case.up > 1:
        scale = case.up, case.up
        return {
            f"ConvTranspose {case.up}x{case.up}": nn.ConvTranspose(
                case.channels, scale, scale, dtype=dtype
            ),
            "bilinear and Conv 3x3": Bilinear(case.up, case.channels, dtype),
        }
    return {
        "strided Conv 3x3": nn.Conv(case.channels, (3, 3), (case.down, case.down), dtype=dtype),
        "max pooling 3x3": MaxPool(case.down),
    }
