"""Reassembly (Eqn. 3) and normalisation as slow, obvious loops in float64.

They are written from the definition, and share no code with the package under test.
"""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np


def output_size(size: int, up: int, down: int) -> int:
    return math.ceil(Fraction(size * up, down))


def centre(index: int, up: int, down: int) -> int:
    return math.floor(Fraction(index * down, up))


Scales = tuple[Fraction, Fraction]  # of rows and columns


class Read(NamedTuple):
    """A target pixel, the source pixel inside the map that it reads, and the tap."""

    target: tuple[int, int]
    source: tuple[int, int]
    tap: int


def reads(size: tuple[int, int], kernel_size: int, up: int, down: int) -> Iterator[Read]:
    return resized_reads(size, kernel_size, (Fraction(up, down), Fraction(up, down)))


def resized_reads(size: tuple[int, int], kernel_size: int, scales: Scales) -> Iterator[Read]:
    height, width = size
    radius = kernel_size // 2
    for row in range(math.ceil(height * scales[0])):
        for column in range(math.ceil(width * scales[1])):
            for n in range(kernel_size):
                for m in range(kernel_size):
                    i = math.floor(row / scales[0]) + n - radius
                    j = math.floor(column / scales[1]) + m - radius
                    if 0 <= i < height and 0 <= j < width:
                        yield Read((row, column), (i, j), n * kernel_size + m)


def _reads(size, kernel_size, up, down, scales):
    if scales is None:
        return reads(size, kernel_size, up, down)
    return resized_reads(size, kernel_size, scales)


def channel_groups(channels: int, groups: int) -> Iterator[tuple[int, slice]]:
    size = channels // groups
    for group in range(groups):
        yield group, slice(group * size, (group + 1) * size)


def reassemble(x, weights, kernel_size, up=1, down=1, groups=1, scales=None):
    x, weights = np.float64(x), np.float64(weights)
    batch, height, width, channels = x.shape
    y = np.zeros((batch, *weights.shape[1:3], channels))
    for (row, column), (i, j), tap in _reads((height, width), kernel_size, up, down, scales):
        for group, members in channel_groups(channels, groups):
            weight = weights[:, row, column, group * kernel_size**2 + tap]
            y[:, row, column, members] += weight[:, None] * x[:, i, j, members]
    return y


def input_gradient(weights, dy, size, kernel_size, up=1, down=1, groups=1, scales=None):
    weights, dy = np.float64(weights), np.float64(dy)
    batch, channels = dy.shape[0], dy.shape[3]
    dx = np.zeros((batch, *size, channels))
    for (row, column), (i, j), tap in _reads(size, kernel_size, up, down, scales):
        for group, members in channel_groups(channels, groups):
            weight = weights[:, row, column, group * kernel_size**2 + tap]
            dx[:, i, j, members] += weight[:, None] * dy[:, row, column, members]
    return dx


def weight_gradient(x, dy, kernel_size, up=1, down=1, groups=1, scales=None):
    x, dy = np.float64(x), np.float64(dy)
    _, height, width, channels = x.shape
    dw = np.zeros((*dy.shape[:3], groups * kernel_size**2))
    for (row, column), (i, j), tap in _reads((height, width), kernel_size, up, down, scales):
        for group, members in channel_groups(channels, groups):
            products = dy[:, row, column, members] * x[:, i, j, members]
            dw[:, row, column, group * kernel_size**2 + tap] += products.sum(axis=-1)
    return dw


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def sigmoid_normalized(logits):
    return sigmoid(logits) / sigmoid(logits).sum(axis=-1, keepdims=True)


NORMALIZERS = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "sigmoid_normalized": sigmoid_normalized,
}


def kernels(logits, size, normalizer, kernel_size, up=1, down=1, groups=1):
    """Normalises logits into one reassembly kernel per target pixel."""
    logits = np.float64(logits)
    taps = kernel_size**2
    height, width = (output_size(n, up, down) for n in size)
    out = np.zeros((logits.shape[0], height, width, groups * taps))
    for row in range(height):
        for column in range(width):
            cell, phase = (row // up, column // up), (row % up, column % up)
            for group in range(groups):
                first = ((phase[0] * up + phase[1]) * groups + group) * taps
                kernel = NORMALIZERS[normalizer](logits[:, *cell, first : first + taps])
                out[:, row, column, group * taps : (group + 1) * taps] = kernel
    return out


def resized_kernels(logits, scales, normalizer, kernel_size, up=1, groups=1, offset_logits=0):
    """Normalises the logits that each target pixel reads from the field of predicted kernels."""
    logits = np.float64(logits)
    batch, *size, _ = logits.shape
    height, width = (math.ceil(n * scale) for n, scale in zip(size, scales, strict=True))
    offsets = np.broadcast_to(np.float64(offset_logits), (height, width, groups * kernel_size**2))
    taps = kernel_size**2
    out = np.zeros((batch, height, width, groups * taps))
    for row in range(height):
        for column in range(width):
            u, v = math.floor(row * up / scales[0]), math.floor(column * up / scales[1])
            for group in range(groups):
                first = ((u % up * up + v % up) * groups + group) * taps
                of_group = slice(group * taps, (group + 1) * taps)
                kernel = logits[:, u // up, v // up, first : first + taps]
                kernel = kernel + offsets[row, column, of_group]
                out[:, row, column, of_group] = NORMALIZERS[normalizer](kernel)
    return out
