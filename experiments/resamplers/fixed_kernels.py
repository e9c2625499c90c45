"""Resamplers with fixed kernels, as reassemblies.

:mod:`carafe_jax.sources` then treats these resamplers and CARAFE++ in the same way. The kernels are
the same for every channel and every image: they have no batch axes.
"""

import numpy as np
from jaxtyping import Float

from carafe_jax.sources import Reassembly

# Weights of the taps -1, 0 and 1 of bilinear upsampling, for the first and second output of a cell.
_BILINEAR = np.array([[0.25, 0.75, 0], [0, 0.75, 0.25]])


def nearest_kernels(size: tuple[int, int]) -> Reassembly:
    """Kernels of :func:`experiments.resamplers.interpolation.nearest`.

    Args:
        size: height and width of the input, in pixels.
    """
    rows, columns = (np.ones((2 * side, 1)) for side in size)
    return _separable("nearest", size, rows, columns, up=2)


def bilinear_kernels(size: tuple[int, int]) -> Reassembly:
    """Kernels of :func:`experiments.resamplers.interpolation.bilinear`.

    The weight of a tap outside the map is added to the border pixel beside it.

    Args:
        size: height and width of the input, in pixels.
    """
    rows, columns = (_bilinear_axis(side) for side in size)
    return _separable("bilinear", size, rows, columns, up=2)


def box_kernels(
    size: tuple[int, int], *, up: int = 1, down: int = 1, kernel_size: int = 5
) -> Reassembly:
    """Kernels with equal weights, with which the training of CARAFE++ starts.

    As in CARAFE++, pixels outside the map count as zero, so the weights inside the map sum to less
    than 1 at its border.

    Args:
        size: height and width of the input, in pixels.
        up: numerator of the scale.
        down: denominator of the scale.
        kernel_size: side of the kernels, odd.
    """
    weights = np.full(kernel_size, 1 / kernel_size)
    rows, columns = (np.tile(weights, (-(-side * up // down), 1)) for side in size)
    return _separable("box", size, rows, columns, up=up, down=down)


def strided_kernels(size: tuple[int, int]) -> Reassembly:
    """Kernels that select every second pixel, the centres of a convolution with stride 2.

    Args:
        size: height and width of the input, in pixels.
    """
    rows, columns = (np.ones((-(-side // 2), 1)) for side in size)
    return _separable("strided", size, rows, columns, down=2)


def avg_pool_kernels(size: tuple[int, int]) -> Reassembly:
    """Kernels of :func:`experiments.resamplers.pooling.avg_pool`.

    Args:
        size: height and width of the input, in pixels.
    """
    rows, columns = (_avg_pool_axis(side) for side in size)
    return _separable("avg_pool", size, rows, columns, down=2)


def _bilinear_axis(side: int) -> Float[np.ndarray, "outputs 3"]:
    weights = np.tile(_BILINEAR, (side, 1))
    if side:
        weights[0], weights[-1] = [0, 1, 0], [0, 1, 0]
    return weights


def _avg_pool_axis(side: int) -> Float[np.ndarray, "outputs 3"]:
    weights = np.tile([0, 0.5, 0.5], (-(-side // 2), 1))
    if side % 2:
        weights[-1] = [0, 1, 0]  # only one pixel of the last window is inside the map
    return weights


def _separable(
    name: str,
    size: tuple[int, int],
    rows: Float[np.ndarray, "out_height taps"],
    columns: Float[np.ndarray, "out_width taps"],
    up: int = 1,
    down: int = 1,
) -> Reassembly:
    """Returns a reassembly whose kernels are products of the weights along both axes."""
    kernels = rows[:, None, :, None] * columns[None, :, None, :]  # [H', W', k, k]
    kernel_size = rows.shape[1]
    return Reassembly(
        kernels=kernels.reshape(len(rows), len(columns), kernel_size**2).astype(np.float32),
        size=size,
        kernel_size=kernel_size,
        up=up,
        down=down,
        name=name,
    )
