"""A slow and obvious float64 version of the modulated deformable convolution."""

import itertools
import math

import numpy as np


def sample(x, row, column):
    """Interpolates the channels [H, W, C] at one position; zero outside of the map."""
    height, width, channels = x.shape
    value = np.zeros(channels)
    if not (-1 < row < height and -1 < column < width):
        return value
    top, left = math.floor(row), math.floor(column)
    for i, j in itertools.product((top, top + 1), (left, left + 1)):
        if 0 <= i < height and 0 <= j < width:
            value += (1 - abs(row - i)) * (1 - abs(column - j)) * x[i, j]
    return value


def output_size(size, taps, stride, padding, dilation):
    return (size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1


def convolve(
    x, offsets, masks, kernel, stride=1, padding=0, dilation=1, groups=1, deformable_groups=1
):
    """The operator with the arguments of ``modulated_deformable_convolution``."""
    x, offsets, masks, kernel = (np.asarray(a, np.float64) for a in (x, offsets, masks, kernel))
    batch, height, width, channels = x.shape
    rows, columns, _, features = kernel.shape
    high = output_size(height, rows, stride, padding, dilation)
    wide = output_size(width, columns, stride, padding, dilation)
    part = channels // deformable_groups
    y = np.zeros((batch, high, wide, features))
    for b, i, j in itertools.product(range(batch), range(high), range(wide)):
        for n, m in itertools.product(range(rows), range(columns)):
            sampled = np.zeros(channels)
            for d in range(deformable_groups):
                tap = (d * rows + n) * columns + m
                row = i * stride - padding + n * dilation + offsets[b, i, j, 2 * tap]
                column = j * stride - padding + m * dilation + offsets[b, i, j, 2 * tap + 1]
                channel = slice(d * part, (d + 1) * part)
                value = sample(x[b, :, :, channel], row, column)
                sampled[channel] = masks[b, i, j, tap] * value
            for g in range(groups):
                read = slice(g * channels // groups, (g + 1) * channels // groups)
                written = slice(g * features // groups, (g + 1) * features // groups)
                y[b, i, j, written] += sampled[read] @ kernel[n, m, :, written]
    return y


def slope(function, arrays, number, direction, step):
    """The change of a function along a direction of one array, by a central difference."""
    low, high = list(arrays), list(arrays)
    low[number] = np.asarray(arrays[number], np.float64) - step * direction
    high[number] = np.asarray(arrays[number], np.float64) + step * direction
    return (function(*high) - function(*low)) / (2 * step)
