r"""Guided upsampling (GUM; reference 30: Mazzini, 2018).

Bilinear interpolation at places that a small network shifts: target :math:`(i, j)` takes the value
of the map at

.. math::
    \left(\tfrac{i + 1/2}{2} - \tfrac12 + \Delta_y,\;
          \tfrac{j + 1/2}{2} - \tfrac12 + \Delta_x\right)

in pixels of the map, whose border goes on outside. Without offsets :math:`\Delta` that is bilinear
upsampling.

Reference 30 upsamples the logits of a segmentation network, with offsets from a *guidance module*
of several layers. What that is in an FPN or a mask head, the paper does not say. Here it is one 3x3
convolution of the map that is upsampled, with two offsets for each of a pixel's four targets, which
starts at zero.
"""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.resamplers.checks import checked_map
from experiments.resamplers.convolutions import depth_to_space


class GuidedUpsample(nn.Module):
    """Bilinear upsampling with learned offsets; see the module.

    Costs ``8 * (9 * C + 1)`` parameters, for an input pixel ``8 * (18 * C + 1)`` operations of the
    convolution, and for a target ``7 * C`` of the interpolation beside 22 for its place and
    weights.

    Args:
        dtype: of the convolution; by default the common dtype of input and parameters.
    """

    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch double_height double_width channels"]:
        """Maps ``[B, H, W, C]`` to ``[B, 2 * H, 2 * W, C]`` in the dtype of ``x``."""
        x = checked_map("x", x)
        convolution = nn.Conv(
            8,
            (3, 3),
            padding=1,
            dtype=self.dtype,
            kernel_init=nn.initializers.zeros,
            name="offsets",
        )
        offsets = depth_to_space(convolution(x), 2).astype(jnp.float32)  # [B, 2H, 2W, 2]
        return sample(x, _centres(x.shape[1], x.shape[2]) + offsets)


def sample(
    x: Float[Array, "batch height width channels"],
    places: Float[Array, "batch out_height out_width 2"],
) -> Float[Array, "batch out_height out_width channels"]:
    """Interpolates a map bilinearly, in float32.

    Args:
        x: ``[B, H, W, C]``.
        places: row and column of each target, in pixels of ``x`` from the centre of its first;
            what lies outside takes the nearest value of the border, and has no gradient.

    Returns:
        ``[B, H', W', C]`` in the dtype of ``x``.

    Raises:
        ValueError: ``x`` or ``places`` has another shape.
    """
    x, places = checked_map("x", x), jnp.asarray(places)
    batch, height, width, channels = x.shape
    if places.ndim != 4 or places.shape[0] != batch or places.shape[-1] != 2:
        raise ValueError(f"places must be [B, H', W', 2] with B = {batch}, got {places.shape}")
    # In float32 before it is gathered, and so its gradient is summed in float32 too.
    pixels = x.astype(jnp.float32).reshape(batch, height * width, channels)
    rows = _neighbours(places[..., 0], height)
    columns = _neighbours(places[..., 1], width)
    terms = []
    for (row, row_weight), (column, column_weight) in itertools.product(rows, columns):
        index = (row * width + column).reshape(batch, -1, 1)  # [B, H' * W', 1]
        corner = jnp.take_along_axis(pixels, index, axis=1, mode="clip")
        weight = (row_weight * column_weight).reshape(batch, -1, 1)
        terms.append(weight * corner)
    y = sum(terms[1:], start=terms[0])
    return y.reshape(*places.shape[:3], channels).astype(x.dtype)


def _centres(height: int, width: int) -> Float[Array, "1 double_height double_width 2"]:
    """Where bilinear upsampling takes the value of each target."""
    rows, columns = (np.arange(2 * size, dtype=np.float32) / 2 - 0.25 for size in (height, width))
    return jnp.asarray(np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)[None])


def _neighbours(
    place: Float[Array, "batch out_height out_width"], size: int
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Index and weight of the pixels before and after a place along an axis."""
    floor = jnp.floor(place)
    # Clipped before they are integers, which have no room for every float.
    before, after = (jnp.clip(floor + step, 0, size - 1).astype(jnp.int32) for step in (0, 1))
    weight = place - floor
    return (before, 1 - weight), (after, weight)
