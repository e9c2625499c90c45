"""The elements of an array that the threads of a block hold, from a layout."""

import numpy as np
from jax.experimental.pallas import mosaic_gpu as plgpu


def first_elements(layout, shape):
    """The linear index of the first element of each thread, `[warps, lanes]`.

    Follows the definition of a tiled layout: each tile splits the last axes of the array, and some
    of the resulting axes number the warps and the lanes.
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
        """For each warp or lane, its position along the axes that number warps or lanes."""
        sizes = [
            axis.times if isinstance(axis, plgpu.Replicated) else indices.shape[axis]
            for axis in axes
        ]
        for positions in np.ndindex(*sizes):
            yield {
                axis: position
                for axis, position in zip(axes, positions, strict=True)
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
    """The number of cycles in which shared memory serves one load of a warp.

    There are 32 banks of one word each. Lanes that load 32 words together are served at the same
    time. Equal addresses are loaded once.

    Args:
        addresses: address of the first word that each of 32 lanes loads.
        words: number of consecutive words of 32 bits that each lane loads.
    """
    lanes = 32 // words
    total = 0
    for start in range(0, 32, lanes):
        touched = {int(a) + i for a in addresses[start : start + lanes] for i in range(words)}
        total += max(np.bincount([word % 32 for word in touched]))
    return total
