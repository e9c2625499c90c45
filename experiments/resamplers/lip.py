r"""Local importance-based pooling (reference 9: Gao et al., ICCV 2019).

A weighted mean over 3x3 windows with stride 2, with weights that a small network predicts for every
pixel and channel:

.. math::
    y = \frac{\sum e^{l} x}{\sum e^{l}},

The sums run over the pixels of a window inside the map. A gate bounds the logits :math:`l` to
:math:`12\,\sigma(\cdot)`. The last convolution of a network starts at zero, so that training starts
with a mean. Instance normalisation precedes every non-linearity.

Two networks predict logits. The *simplified* one is a single 3x3 convolution of the pooled map;
LIP-ResNet uses it in the stem. In bottlenecks, an :class:`ImportanceTrunk` on the input of the
block is followed by an :class:`ImportanceHead` for each of the two pooled maps.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from carafe_jax.convolution import convolve
from experiments.resamplers.checks import checked_map

GATE = 12.0
TRUNK_FEATURES = 128


def local_importance_pool(
    x: Float[Array, "batch height width channels"],
    logits: Float[Array, "batch height width channels"],
) -> Float[Array, "batch half_height half_width channels"]:
    """Pools with the weights ``exp(logits)``; see the module. Computes in float32.

    Args:
        x: map ``[B, H, W, C]``.
        logits: logits of the shape of ``x``; they must be bounded, because the exponentials could
            overflow.

    Returns:
        A map ``[B, ceil(H / 2), ceil(W / 2), C]`` in the dtype of ``x``.

    Raises:
        ValueError: ``logits`` has another shape than ``x``.
    """
    x, logits = checked_map("x", x), jnp.asarray(logits)
    if logits.shape != x.shape:
        raise ValueError(f"logits must have the shape of x, {x.shape}, got {logits.shape}")
    weights = jnp.exp(logits.astype(jnp.float32))
    weighted = weights * x.astype(jnp.float32)
    return (_window_sum(weighted) / _window_sum(weights)).astype(x.dtype)


class SimplifiedLIP(nn.Module):
    """Local importance-based pooling with logits from one 3x3 convolution.

    Costs ``9 * C**2 + 2 * C`` parameters, and ``18 * C**2`` operations of the convolution for each
    input pixel.

    Args:
        dtype: dtype of the convolution; the default is the common dtype of input and parameters.
    """

    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch half_height half_width channels"]:
        """Maps ``[B, H, W, C]`` to ``[B, ceil(H / 2), ceil(W / 2), C]``."""
        x = checked_map("x", x)
        logits = _convolution(x.shape[-1], 3, nn.initializers.zeros, self.dtype, "conv")(x)
        return local_importance_pool(x, _gate(_instance_norm("norm", logits)))


class ImportanceTrunk(nn.Module):
    """The features from which the logits of both maps of a bottleneck are predicted.

    A 1x1 convolution, instance normalisation and ReLU; then the same with a 3x3 convolution. Costs
    ``128 * C + 9 * 128**2 + 4 * 128`` parameters, and twice as many operations for each pixel.

    Args:
        dtype: dtype of the convolutions; the default is the common dtype of input and parameters.
    """

    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width 128"]:
        """Maps ``[B, H, W, C]`` to ``[B, H, W, 128]`` in float32."""
        x = checked_map("x", x)
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        for number, size in enumerate((1, 3), start=1):
            x = _convolution(TRUNK_FEATURES, size, init, self.dtype, f"conv{number}")(x)
            x = nn.relu(_instance_norm(f"norm{number}", x))
        return x


class ImportanceHead(nn.Module):
    """Local importance-based pooling with logits from a trunk's features.

    Costs ``128 * C + 2 * C`` parameters, and ``256 * C`` operations of the convolution for each
    input pixel.

    Args:
        dtype: dtype of the convolution; the default is the common dtype of input and parameters.
    """

    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        trunk: Float[Array, "batch height width 128"],
    ) -> Float[Array, "batch half_height half_width channels"]:
        """Maps ``[B, H, W, C]`` to ``[B, ceil(H / 2), ceil(W / 2), C]``."""
        x, trunk = checked_map("x", x), checked_map("trunk", trunk)
        logits = _convolution(x.shape[-1], 1, nn.initializers.zeros, self.dtype, "conv")(trunk)
        return local_importance_pool(x, _gate(_instance_norm("norm", logits)))


def _convolution(
    features: int,
    size: int,
    init: jax.nn.initializers.Initializer,
    dtype: jax.typing.DTypeLike | None,
    name: str,
) -> nn.Conv:
    return nn.Conv(
        features,
        (size, size),
        use_bias=False,
        kernel_init=init,
        dtype=dtype,
        conv_general_dilated=convolve,
        name=name,
    )


def _instance_norm(name: str, x: jax.Array) -> jax.Array:
    # The fast variance E[x^2] - E[x]^2 is inaccurate for maps that are nearly constant.
    norm = nn.InstanceNorm(epsilon=1e-5, use_fast_variance=False, dtype=jnp.float32, name=name)
    return norm(x.astype(jnp.float32))  # InstanceNorm promotes, which strict promotion refuses


def _gate(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return GATE * nn.sigmoid(x)


def _window_sum(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch half_height half_width channels"]:
    window, strides, padding = (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, window, strides, padding)
