r"""Guided upsampling (GUM; reference 30: Mazzini, 2018).

Bilinear interpolation at positions that a small network shifts: the value of target :math:`(i, j)`
is interpolated at

.. math::
    \left(\tfrac{i + 1/2}{2} - \tfrac12 + \Delta_y,\;
          \tfrac{j + 1/2}{2} - \tfrac12 + \Delta_x\right)

in pixels of the map, which is extended by its border values. Without offsets :math:`\Delta` this is
bilinear upsampling.

Reference 30 upsamples the logits of a segmentation network, with offsets from a *guidance module*
of several layers. The paper does not say what this module is in an FPN or a mask head. Here it is
one 3x3 convolution of the map before upsampling, with two offsets for each of the four targets of a
pixel; its kernel starts at zero.
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

    Costs ``8 * (9 * C + 1)`` parameters, for each input pixel ``8 * (18 * C + 1)`` operations of
    the convolution, and for each target ``7 * C`` of the interpolation and 22 for its position and
    weights.

    Args:
        dtype: dtype of the convolution; the default is the common dtype of input and parameters.
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
    positions: Float[Array, "batch out_height out_width 2"],
) -> Float[Array, "batch out_height out_width channels"]:
    """Interpolates a map bilinearly, in float32.

    Args:
        x: map ``[B, H, W, C]``.
        positions: row and column of each target, ``[B, H', W', 2]``, in pixels of ``x`` from the
            centre of its first pixel. A position outside the map gets the nearest border value, and
            has no gradient.

    Returns:
        A map ``[B, H', W', C]`` in the dtype of ``x``.

    Raises:
        ValueError: ``x`` or ``positions`` has a wrong shape.
    """
    x, positions = checked_map("x", x), jnp.asarray(positions)
    batch, height, width, channels = x.shape
    if positions.ndim != 4 or positions.shape[0] != batch or positions.shape[-1] != 2:
        raise ValueError(
            f"positions must be [B, H', W', 2] with B = {batch}, got {positions.shape}"
        )
    # Converted to float32 before the gather, so that its gradient is summed in float32 too.
    pixels = x.astype(jnp.float32).reshape(batch, height * width, channels)
    rows = _neighbours(positions[..., 0], height)
    columns = _neighbours(positions[..., 1], width)
    terms = []
    for (row, row_weight), (column, column_weight) in itertools.product(rows, columns):
        index = (row * width + column).reshape(batch, -1, 1)  # [B, H' * W', 1]
        corner = jnp.take_along_axis(pixels, index, axis=1, mode="clip")
        weight = (row_weight * column_weight).reshape(batch, -1, 1)
        terms.append(weight * corner)
    y = sum(terms[1:], start=terms[0])
    return y.reshape(*positions.shape[:3], channels).astype(x.dtype)


def _centres(height: int, width: int) -> Float[Array, "1 double_height double_width 2"]:
    """Returns the positions of the targets for bilinear upsampling."""
    rows, columns = (np.arange(2 * size, dtype=np.float32) / 2 - 0.25 for size in (height, width))
    return jnp.asarray(np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)[None])


def _neighbours(
    position: Float[Array, "batch out_height out_width"], size: int
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Returns index and weight of the pixels before and after a position along an axis."""
    floor = jnp.floor(position)
    # Clipped before the conversion to integers, which cannot represent all floats.
    before, after = (jnp.clip(floor + step, 0, size - 1).astype(jnp.int32) for step in (0, 1))
    weight = position - floor
    return (before, 1 - weight), (after, weight)
