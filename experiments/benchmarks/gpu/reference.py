"""The operator and its gradients in float64 numpy.

They sum strided views over output phases and taps, which is fast enough for real shapes. This
module shares no code with the package that it checks.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.benchmarks.cases import Case

Float64 = npt.NDArray[np.float64]
Slices = tuple[slice, slice, slice]


def _reads(case: Case) -> Iterator[tuple[Slices, Slices, int]]:
    """For each phase and tap: slices of the outputs, slices of the padded input, and the tap.

    The outputs ``p``, ``p + up``, ... are centred on inputs ``down`` apart, starting at
    ``floor(p * down / up)``.
    """

    def views(phase: int, tap: int, out_size: int) -> tuple[slice, slice]:
        count = len(range(phase, out_size, case.up))
        first = phase * case.down // case.up + tap
        return slice(phase, None, case.up), slice(first, first + count * case.down, case.down)

    everything = slice(None)
    phases, taps = range(case.up), range(case.kernel_size)
    for u, v, n, m in itertools.product(phases, phases, taps, taps):
        if u < case.out_size[0] and v < case.out_size[1]:
            target_rows, source_rows = views(u, n, case.out_size[0])
            target_columns, source_columns = views(v, m, case.out_size[1])
            yield (
                (everything, target_rows, target_columns),
                (everything, source_rows, source_columns),
                n * case.kernel_size + m,
            )


def _grouped(case: Case, array: npt.NDArray[Any]) -> Float64:
    """``[b, h, w, groups * n] -> [b, h, w, groups, n]``."""
    return array.astype(np.float64).reshape(*array.shape[:3], case.groups, -1)


def _padded(case: Case, x: npt.NDArray[Any]) -> Float64:
    radius = case.kernel_size // 2
    return np.pad(_grouped(case, x), ((0, 0), (radius, radius), (radius, radius), (0, 0), (0, 0)))


def forward(case: Case, x: npt.NDArray[Any], weights: npt.NDArray[Any]) -> Float64:
    """The output of the operator."""
    sources, kernels = _padded(case, x), _grouped(case, weights)
    y = np.zeros((*case.y_shape[:3], case.groups, case.channels // case.groups))
    for targets, reads, tap in _reads(case):
        y[targets] += kernels[targets][..., tap, None] * sources[reads]
    return y.reshape(case.y_shape)


def input_gradient(case: Case, weights: npt.NDArray[Any], dy: npt.NDArray[Any]) -> Float64:
    """The gradient with respect to the map."""
    kernels, cotangent = _grouped(case, weights), _grouped(case, dy)
    dx = _padded(case, np.zeros(case.x_shape))
    for targets, reads, tap in _reads(case):
        dx[reads] += kernels[targets][..., tap, None] * cotangent[targets]
    radius = case.kernel_size // 2
    inside = dx[:, radius : radius + case.height, radius : radius + case.width]
    return inside.reshape(case.x_shape)


def weight_gradient(case: Case, x: npt.NDArray[Any], dy: npt.NDArray[Any]) -> Float64:
    """The gradient with respect to the weights."""
    sources, cotangent = _padded(case, x), _grouped(case, dy)
    dw = np.zeros((*case.weights_shape[:3], case.groups, case.taps))
    for targets, reads, tap in _reads(case):
        dw[targets][..., tap] = np.einsum("bhwgc,bhwgc->bhwg", cotangent[targets], sources[reads])
    return dw.reshape(case.weights_shape)


def softmax_weights(case: Case, logits: npt.NDArray[Any]) -> Float64:
    """Converts logits to weights; a pixel of the logits has the kernels of ``up * up`` outputs."""
    _, rows, columns, _ = logits.shape
    shape = case.batch, rows, columns, case.up, case.up, case.groups, case.taps
    exponentials = logits.astype(np.float64).reshape(shape)
    exponentials = np.exp(exponentials - exponentials.max(-1, keepdims=True))
    weights = exponentials / exponentials.sum(-1, keepdims=True)
    weights = weights.swapaxes(2, 3).reshape(case.batch, rows * case.up, columns * case.up, -1)
    height, width = case.out_size
    return weights[:, :height, :width]


def softmax_gradient(case: Case, weights: Float64, dw: Float64) -> Float64:
    """The gradient of :func:`softmax_weights`, from the gradient with respect to the weights."""
    kernels, cotangent = _grouped(case, weights), _grouped(case, dw)
    gradient = kernels * (cotangent - (kernels * cotangent).sum(-1, keepdims=True))
    _, rows, columns, _ = case.logits_shape
    whole = np.zeros((case.batch, rows * case.up, columns * case.up, case.groups * case.taps))
    height, width = case.out_size
    whole[:, :height, :width] = gradient.reshape(case.weights_shape)
    whole = whole.reshape(case.batch, rows, case.up, columns, case.up, -1).swapaxes(2, 3)
    return whole.reshape(case.logits_shape)
