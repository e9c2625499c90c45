r"""SAPA-B (Lu et al., "SAPA: Similarity-Aware Point Affiliation", NeurIPS 2022).

The kernel of a target compares it with the pixels it may belong to. The *query* of a target is a
linear function of the guide, a map of the size of the result from an earlier layer; the *key* of a
pixel is a linear function of the map. Both maps are normalised by LayerNorm before. The weight of a
tap is the softmax over the 5x5 taps of

.. math::
    q_{i'j'} \cdot k_{i+n-r,\, j+m-r},

the inner product of the query with the key that the tap reads, which is zero outside the map. The
products are :func:`carafe_jax.similarities`. The kernels then reassemble the map itself.

The authors' code has 64 features of queries and keys. Their tables have 0.1 million parameters for
six upsamplers of 256 channels, which is the number for 32 features.
"""

import functools

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from carafe_jax import reassemble, similarities
from experiments.resamplers.checks import checked_map
from experiments.resamplers.guides import checked_guide

KERNEL_SIZE = 5
FEATURES = 32
_INIT = nn.initializers.normal(0.02)


class SAPA(nn.Module):
    """Upsampling with kernels that compare a guide with the map; see the module.

    Costs ``(C + D) * 32 + 64`` parameters of queries and keys, where ``D`` is the number of
    channels of the guide, and ``2 * C + 2 * D`` of LayerNorm.

    Args:
        dtype: dtype of queries and keys; the default is the common dtype of input and parameters.
    """

    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        guide: Float[Array, "batch out_height out_width guide_channels"],
    ) -> Float[Array, "batch out_height out_width channels"]:
        """Maps ``[B, H, W, C]`` to the size of the guide, in the dtype of ``x``.

        Args:
            x: map ``[B, H, W, C]``.
            guide: map ``[B, H', W', D]``, where ``H'`` is ``2 * H`` or ``2 * H - 1``, and ``W'`` is
                ``2 * W`` or ``2 * W - 1``.

        Raises:
            ValueError: ``x`` or ``guide`` does not have rank 4 or a floating-point dtype, or
                ``guide`` has another batch or size.
        """
        x = checked_map("x", x)
        guide = checked_guide(x, guide)
        norm = functools.partial(nn.LayerNorm, epsilon=1e-5, dtype=self.dtype)
        linear = functools.partial(nn.Dense, FEATURES, dtype=self.dtype, kernel_init=_INIT)
        # Flax's LayerNorm mixes its float32 statistics with the dtype of the computation.
        with jax.numpy_dtype_promotion("standard"):
            normal_guide, normal_x = norm(name="guide_norm")(guide), norm(name="norm")(x)
        queries = linear(name="query")(normal_guide)  # [B, H', W', 32]
        keys = linear(name="key")(normal_x)  # [B, H, W, 32]
        size = (guide.shape[1], guide.shape[2])
        queries = queries.astype(keys.dtype)
        products = similarities(keys, queries, kernel_size=KERNEL_SIZE, size=size)
        kernels = nn.softmax(products)  # [B, H', W', 25] in float32
        return reassemble(x, kernels, kernel_size=KERNEL_SIZE, size=size)
