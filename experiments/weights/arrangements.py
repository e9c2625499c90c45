"""How values are arranged in PyTorch's arrays and in the arrays of the models here.

An arrangement only moves values, so a conversion and its inverse give back the same bits.
"""

import dataclasses
from typing import Protocol

import numpy as np


class Arrangement(Protocol):
    """Converts an array of a file to an array of a model, and back.

    The description of each arrangement gives both shapes.
    """

    def to_model(self, array: np.ndarray) -> np.ndarray:
        """The array of the model.

        Args:
            array: array with the shape in the file.

        Returns:
            Array with the shape in the model and the same dtype; it may be a view of ``array``.
        """
        ...

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """The array of the file; the inverse of :meth:`to_model`.

        Args:
            array: array with the shape in the model.

        Returns:
            Array with the shape in the file and the same dtype; it may be a view of ``array``.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Unchanged:
    """The same shape, ``[...]``, in the file and in the model."""

    def to_model(self, array: np.ndarray) -> np.ndarray:
        return array

    def to_file(self, array: np.ndarray) -> np.ndarray:
        return array


@dataclasses.dataclass(frozen=True)
class Transposed:
    """Axes in another order: ``[n_0, n_1, ...]`` in the file, ``[n_axes[0], ...]`` in the model.

    Args:
        axes: for each axis of the model's array, the axis of the file's array.
    """

    axes: tuple[int, ...]

    def to_model(self, array: np.ndarray) -> np.ndarray:
        return array.transpose(self.axes)

    def to_file(self, array: np.ndarray) -> np.ndarray:
        return array.transpose(np.argsort(self.axes))


# A vector, [C]: biases, and the parameters and statistics of a normalisation.
VECTOR = Transposed((0,))
# A convolution: [O, I, H, W] in the file, [H, W, I, O] in the model.
CONVOLUTION = Transposed((2, 3, 1, 0))
# A fully connected layer: [out, in] in the file, [in, out] in the model.
DENSE = Transposed((1, 0))


@dataclasses.dataclass(frozen=True)
class Deconvolution:
    """A transposed convolution: ``[I, O, H, W]`` in the file, ``[H, W, I, O]`` in the model.

    PyTorch convolves with the kernel, Flax correlates with it: both spatial axes are flipped.
    """

    def to_model(self, array: np.ndarray) -> np.ndarray:
        return array[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)

    def to_file(self, array: np.ndarray) -> np.ndarray:
        return array.transpose(2, 3, 0, 1)[:, :, ::-1, ::-1]


@dataclasses.dataclass(frozen=True)
class DenseOnRegions:
    """A fully connected layer on flattened regions.

    ``[out, C * side * side]``, channels first, in the file; ``[side * side * C, out]``, channels
    last, in the model.

    Args:
        side: side of a region.
    """

    side: int

    def to_model(self, array: np.ndarray) -> np.ndarray:
        out, _ = array.shape
        array = array.reshape(out, -1, self.side, self.side)
        return array.transpose(2, 3, 1, 0).reshape(-1, out)

    def to_file(self, array: np.ndarray) -> np.ndarray:
        _, out = array.shape
        array = array.reshape(self.side, self.side, -1, out)
        return array.transpose(3, 2, 0, 1).reshape(out, -1)


@dataclasses.dataclass(frozen=True)
class Logits:
    """A kernel or a bias of mmcv's ``content_encoder``, whose outputs are logits of CARAFE.

    A kernel is ``[O, I, H, W]`` in the file and ``[H, W, I, O]`` in the model, a bias ``[O]`` in
    both, where ``O`` is ``groups * k * k * up**2``.

    Output ``(g * k * k + tap) * up**2 + phase`` in the file, ``phase * groups * k * k + g * k * k +
    tap`` in the model, as in :mod:`carafe_jax.convert`.

    Args:
        up: upsampling factor.
    """

    up: int

    def to_model(self, array: np.ndarray) -> np.ndarray:
        split = array.reshape(-1, self.up**2, *array.shape[1:])
        array = split.swapaxes(0, 1).reshape(array.shape)
        return array if array.ndim == 1 else CONVOLUTION.to_model(array)

    def to_file(self, array: np.ndarray) -> np.ndarray:
        array = array if array.ndim == 1 else CONVOLUTION.to_file(array)
        split = array.reshape(self.up**2, -1, *array.shape[1:])
        return split.swapaxes(0, 1).reshape(array.shape)
