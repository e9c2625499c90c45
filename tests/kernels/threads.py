"""Which element of an array a thread of a block holds first, from a layout."""

import numpy as np
from jax.experimental.pallas import mosaic_gpu as plgpu


def first_elements(layout, shape):
    """Linear indices `[warps, lanes]` into an array of `shape`.

    Follows the definition of a tiled layout: each tile splits the last axes of what is there, and
    some of the axes that result number the warps and the lanes.
    """
    layout = layout.to_mgpu()
    indices = np.arange(np.prod(shape)).reshape(shape)
    for tile in layout.tiling.tiles:
        split = [
            part
            for size, tiled in zip(indices.shape[-len(tile) :], tile, strict=True)
            for part in (size // tiled, tiled)
        ]
        leading = indices.shape[: -len(tile)]
        indices = indices.reshape(*leading, *split)
        first = len(leading)
        axes = [*range(first), *range(first, indices.ndim, 2), *range(first + 1, indices.ndim, 2)]
        indices = indices.transpose(axes)

    def numbered(axes):
        """Positions along the axes that number warps or lanes, one for each of them."""
        sizes = [
            axis.times if isinstance(axis, plgpu.Replicated) else indices.shape[axis]
            for axis in axes
        ]
        for places in np.ndindex(*sizes):
            yield {
                axis: place
                for axis, place in zip(axes, places, strict=True)
                if not isinstance(axis, plgpu.Replicated)
            }

    def element(chosen):
        return indices[tuple(chosen.get(axis - indices.ndim, 0) for axis in range(indices.ndim))]

    return np.array(
        [
            [element(warp | lane) for lane in numbered(layout.lane_dims)]
            for warp in numbered(layout.warp_dims)
        ]
    )


def wavefronts(addresses, words):
    """Cycles in which shared memory serves a load of a warp.

    Lanes load `words` of 32 bits from word `addresses` on. There are 32 banks of a word, and as
    many lanes are served at once as together load 32 words; equal addresses are loaded once.
    """
    lanes = 32 // words
    total = 0
    for start in range(0, 32, lanes):
        touched = {int(a) + i for a in addresses[start : start + lanes] for i in range(words)}
        total += max(np.bincount([word % 32 for word in touched]))
    return total
