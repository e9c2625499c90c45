r"""Detail-preserving pooling (reference 37: Saeedan et al., CVPR 2018).

A weighted mean, with weights that grow with the deviation of a pixel from its surroundings, so that
small details survive. With :math:`\tilde I` the mean of the 2x2 window of a pixel (*Lite*: a box
filter instead of a learned one), in the form of the authors' code,

.. math::
    x = (I - \tilde I)^2 + \epsilon, \qquad
    w = e^{\alpha} + \left(\frac{x}{\bar x}\right)^{e^{\lambda}}, \qquad
    y = \frac{\sum w I}{\sum w},

where :math:`\bar x` is the mean of :math:`x` over the window, the sums run over the window,
:math:`\epsilon = 10^{-3}`, and :math:`\alpha` and :math:`\lambda` are learned for each channel.

The paper (eqs. 5 to 9, symmetric reward) has :math:`w = \alpha + (\sqrt{d^2 + \epsilon^2})^\lambda`
with :math:`d = I - \tilde I`. The code differs in three points. It divides by :math:`\bar x`, which
makes the weights independent of the contrast of a window if the contrast is well above
:math:`\epsilon`. It keeps both parameters positive with the exponential. It adds :math:`\epsilon`
itself to the square, and its exponent acts on the square, so that :math:`\epsilon` and
:math:`e^{\lambda}` correspond to the paper's :math:`\epsilon^2` and :math:`\lambda / 2`.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.resamplers.checks import checked_map
from experiments.resamplers.pooling import window_mean, window_sum

EPSILON = 1e-3


def detail_preserving_pool(
    x: Float[Array, "batch height width channels"],
    alpha: Float[Array, " channels"],
    lam: Float[Array, " channels"],
) -> Float[Array, "batch half_height half_width channels"]:
    """Pools windows of 2x2 pixels with given parameters; see the module.

    Windows at the border have sums and means of the pixels inside the map. Computes in float32.

    Args:
        x: map ``[B, H, W, C]``.
        alpha: logarithm of the constant part of the weights, ``[C]``.
        lam: logarithm of the exponent of the reward, ``[C]``.

    Returns:
        A map ``[B, ceil(H / 2), ceil(W / 2), C]`` in the dtype of ``x``.
    """
    x = checked_map("x", x)
    image = x.astype(jnp.float32)
    alpha, lam = (jnp.asarray(value, jnp.float32).reshape(1, 1, 1, -1) for value in (alpha, lam))
    deviation = jnp.square(image - _spread(window_mean(image), x)) + EPSILON
    relative = deviation / _spread(window_mean(deviation), x)
    reward = jnp.power(relative, jnp.exp(lam))
    weights = jnp.exp(alpha) + reward
    return (window_sum(weights * image) / window_sum(weights)).astype(x.dtype)


class DetailPreservingPool(nn.Module):
    r"""Detail-preserving pooling with learned ``alpha`` and ``lambda`` for each channel.

    Both start at zero: :math:`w = 1 + x / \bar x`, so that the box filter and the reward have equal
    shares of the weight of every window. (Versions of the authors' code start at zero or uniformly
    in [0, 1); zero is not random and prefers neither share.)

    Costs ``2 * C`` parameters, and for each channel 7 operations for an input pixel, including one
    power, 19 for an output pixel and 2 for a map.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch half_height half_width channels"]:
        """Maps ``[B, H, W, C]`` to ``[B, ceil(H / 2), ceil(W / 2), C]``."""
        shape = (x.shape[-1],)
        alpha = self.param("alpha", nn.initializers.zeros, shape, jnp.float32)
        lam = self.param("lambda", nn.initializers.zeros, shape, jnp.float32)
        return detail_preserving_pool(x, alpha, lam)


def _spread(
    means: Float[Array, "batch half_height half_width channels"],
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch height width channels"]:
    """Repeats the value of each 2x2 window for its pixels."""
    _, height, width, _ = x.shape
    return means.repeat(2, axis=1).repeat(2, axis=2)[:, :height, :width]
