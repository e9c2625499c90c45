"""Applies a resampler without the convolution that follows it."""

import jax
import numpy as np

from tests.compilation import jit

X = np.arange(24.0, dtype=np.float32).reshape(1, 4, 6, 1)


def apply_with_identity_convolution(module, x):
    """Sets the 3x3 convolution to the identity, so that only the resampler has an effect."""
    variables = jit(module.init)(jax.random.key(0), x)
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[1, 1] = 1
    variables = {
        "params": {**variables["params"], "Conv_0": {"kernel": kernel, "bias": np.zeros(1)}}
    }
    return np.asarray(jit(module.apply)(variables, x))[0, :, :, 0]
