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


class Read(NamedTuple):
    """A target pixel, the source pixel inside the map that it reads, and the tap."""

    target: tuple[int, int]
    source: tuple[int, int]
    tap: int


def reads(size: tuple[int, int], kernel_size: int, up: int, down: int) -> Iterator[Read]:
    height, width = size
    radius = kernel_size // 2
    for row in range(output_size(height, up, down)):
        for column in range(output_size(width, up, down)):
            for n in range(kernel_size):
                for m in range(kernel_size):
                    i = centre(row, up, down) + n - radius
                    j = centre(column, up, down) + m - radius
                    if 0 <= i < height and 0 <= j < width:
                        yield Read((row, column), (i, j), n * kernel_size + m)


def channel_groups(channels: int, groups: int) -> Iterator[tuple[int, slice]]:
    size = channels // groups
    for group in range(groups):
        yield group, slice(group * size, (group + 1) * size)


def reassemble(x, weights, kernel_size, up=1, down=1, groups=1):
    x, weights = np.float64(x), np.float64(weights)
    batch, height, width, channels = x.shape
    y = np.zeros((batch, *weights.shape[1:3], channels))
    for (row, column), (i, j), tap in reads((height, width), kernel_size, up, down):
        for group, members in channel_groups(channels, groups):
            weight = weights[:, row, column, group * kernel_size**2 + tap]
            y[:, row, column, members] += weight[:, None] * x[:, i, j, members]
    return y


def input_gradient(weights, dy, size, kernel_size, up=1, down=1, groups=1):
    weights, dy = np.float64(weights), np.float64(dy)
    batch, channels = dy.shape[0], dy.shape[3]
    dx = np.zeros((batch, *size, channels))
    for (row, column), (i, j), tap in reads(size, kernel_size, up, down):
        for group, members in channel_groups(channels, groups):
            weight = weights[:, row, column, group * kernel_size**2 + tap]
            dx[:, i, j, members] += weight[:, None] * dy[:, row, column, members]
    return dx


def weight_gradient(x, dy, kernel_size, up=1, down=1, groups=1):
    x, dy = np.float64(x), np.float64(dy)
    _, height, width, channels = x.shape
    dw = np.zeros((*dy.shape[:3], groups * kernel_size**2))
    for (row, column), (i, j), tap in reads((height, width), kernel_size, up, down):
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
