"""All downsamplers: pools, and convolutions that halve their input.

Call them in a compact method of a Linen module; their parameters become a submodule with the given
name.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from carafe_jax.linen import CARAFE
from experiments.resamplers.dpp import DetailPreservingPool
from experiments.resamplers.lip import SimplifiedLIP
from experiments.resamplers.methods import Downsampler, unknown_method
from experiments.resamplers.pooling import avg_pool, max_pool

SAME_3X3 = ((1, 1), (1, 1))
MakeModule = Callable[..., nn.Module]

_CARAFE: MakeModule = functools.partial(CARAFE, down=2)


def pool(
    x: Float[Array, "batch height width channels"],
    method: Downsampler,
    *,
    name: str,
    carafe: MakeModule = _CARAFE,
    dtype: jax.typing.DTypeLike | None = None,
) -> Float[Array, "batch half_height half_width channels"]:
    """Halves a map with the named method.

    Args:
        x: map ``[B, H, W, C]``.
        method: ``"max_pool"``: 3x3 maximum. ``"avg_pool"``: 2x2 mean. ``"dpp"``:
            detail-preserving pooling. ``"lip"``: local importance-based pooling with simplified
            logits. ``"carafe"``: CARAFE++. ``"strided"`` is not allowed: it is not a pool.
        name: name of the submodule, if the method has parameters.
        carafe: function that makes the CARAFE++ layer from ``name`` and ``dtype``.
        dtype: dtype of the convolutions that predict weights; the default is the common dtype of
            input and parameters.

    Returns:
        A map ``[B, ceil(H / 2), ceil(W / 2), C]`` in the dtype of ``x``.

    Raises:
        ValueError: ``method`` is unknown, or ``"strided"``.
    """
    match method:
        case "strided":
            raise ValueError("method 'strided' has no pool: it is the stride of a convolution")
        case "max_pool":
            return max_pool(x)
        case "avg_pool":
            return avg_pool(x)
        case "dpp":
            return DetailPreservingPool(name=name)(x)
        case "lip":
            return SimplifiedLIP(dtype=dtype, name=name)(x)
        case "carafe":
            return carafe(dtype=dtype, name=name)(x)
    raise unknown_method(method, Downsampler)


def downsampling_convolution(
    x: Float[Array, "batch height width channels"],
    method: Downsampler,
    convolution: MakeModule,
    *,
    name: str,
    carafe: MakeModule = _CARAFE,
    dtype: jax.typing.DTypeLike | None = None,
) -> Float[Array, "batch half_height half_width features"]:
    """Convolves with stride 2, or pools and then convolves with stride 1 (section 4.1, Fig. 4).

    Args:
        x: map ``[B, H, W, C]``.
        method: ``"strided"``, or a method of :func:`pool`.
        convolution: function that makes the convolution from ``strides``, with explicit padding.
        name: name of the submodule, if the method has parameters.
        carafe: function that makes the CARAFE++ layer from ``name`` and ``dtype``.
        dtype: dtype of the convolutions that predict weights, but not of ``convolution``; the
            default is the common dtype of input and parameters.

    Returns:
        A map ``[B, ceil(H / 2), ceil(W / 2), features]``.

    Raises:
        ValueError: ``method`` is unknown.
    """
    if method == "strided":
        return convolution(strides=2)(x)
    return convolution(strides=1)(pool(x, method, name=name, carafe=carafe, dtype=dtype))


class Downsample(nn.Module):
    """Halves a map with the named method, with a 3x3 convolution.

    Args:
        method: ``"strided"``: a 3x3 convolution with stride 2. A method of :func:`pool`: this pool,
            followed by a 3x3 convolution.
        features: number of output channels.

    Raises:
        ValueError: ``method`` is unknown.
    """

    method: Downsampler
    features: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch half_height half_width features"]:
        """Maps ``[B, H, W, C]`` to ``[B, ceil(H / 2), ceil(W / 2), features]``."""
        convolution = functools.partial(nn.Conv, self.features, (3, 3), padding=SAME_3X3)
        return downsampling_convolution(x, self.method, convolution, name="resample")
