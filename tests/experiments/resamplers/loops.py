"""Slow and obvious float64 versions of the resamplers, for maps [B, H, W, C]."""

import itertools
import math

import jax
import numpy as np

from tests.compilation import jit


def windows(size, window, before):
    """Returns for each output the pixels of its window in the map; it starts at 2i - before."""
    return [
        [p for p in range(2 * i - before, 2 * i - before + window) if 0 <= p < size]
        for i in range(-(-size // 2))
    ]


def pooled(x, window, before, reduce):
    """Applies ``reduce`` to the pixels [n, C] of each window and to their indices."""
    x = np.asarray(x, np.float64)
    batch, height, width, channels = x.shape
    rows, columns = windows(height, window, before), windows(width, window, before)
    y = np.zeros((batch, len(rows), len(columns), channels))
    for b, i, j in itertools.product(range(batch), range(len(rows)), range(len(columns))):
        positions = list(itertools.product(rows[i], columns[j]))
        y[b, i, j] = reduce(np.array([x[b, p, q] for p, q in positions]), b, positions)
    return y


def detail_preserving_pool(x, alpha, lam):
    def reduce(pixels, _b, _places):
        deviation = (pixels - pixels.mean(axis=0)) ** 2 + 1e-3
        weights = np.exp(alpha) + (deviation / deviation.mean(axis=0)) ** np.exp(lam)
        return (weights * pixels).sum(axis=0) / weights.sum(axis=0)

    return pooled(x, 2, 0, reduce)


def local_importance_pool(x, logits):
    def reduce(pixels, b, positions):
        weights = np.exp([np.asarray(logits, np.float64)[b, p, q] for p, q in positions])
        return (weights * pixels).sum(axis=0) / weights.sum(axis=0)

    return pooled(x, 3, 1, reduce)


def convolve(x, kernel):
    """Convolution of stride 1, with zeros around the map; kernel HWIO."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    size = len(kernel)
    border = size // 2
    padded = np.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
    y = np.zeros((*x.shape[:3], kernel.shape[3]))
    for i, j in itertools.product(range(x.shape[1]), range(x.shape[2])):
        y[:, i, j] = np.tensordot(padded[:, i : i + size, j : j + size], kernel, 3)
    return y


def nearest(x):
    """Doubles a map: targets 2i and 2i + 1 are pixel i."""
    x = np.asarray(x, np.float64)
    batch, height, width, channels = x.shape
    y = np.zeros((batch, 2 * height, 2 * width, channels))
    for i, j in itertools.product(range(2 * height), range(2 * width)):
        y[:, i, j] = x[:, i // 2, j // 2]
    return y


def sample(x, positions):
    """Interpolates bilinearly as a sum over all pixels, at positions clipped to the map.

    The positions are [B, H', W', 2], or [B, H', W', groups, 2] for groups of channels.
    """
    x, positions = np.asarray(x, np.float64), np.asarray(positions, np.float64)
    if positions.ndim == 4:
        positions = positions[:, :, :, None]
    height, width, channels = x.shape[1:]
    groups = positions.shape[3]
    size = channels // groups
    y = np.zeros((*positions.shape[:3], channels))
    for b, i, j, g in itertools.product(*map(range, positions.shape[:4])):
        row, column = np.clip(positions[b, i, j, g], 0, (height - 1, width - 1))
        members = slice(g * size, (g + 1) * size)
        for p, q in itertools.product(range(height), range(width)):
            weight = max(0, 1 - abs(row - p)) * max(0, 1 - abs(column - q))
            y[b, i, j, members] += weight * x[b, p, q, members]
    return y


def bilinear_positions(x):
    """Returns the positions of the pixel centres of a map of twice the size."""
    batch, height, width, _ = np.shape(x)
    rows, columns = np.mgrid[: 2 * height, : 2 * width]
    positions = np.stack([(rows + 0.5) / 2 - 0.5, (columns + 0.5) / 2 - 0.5], axis=-1)
    return np.broadcast_to(positions, (batch, *positions.shape))


def bilinear(x):
    """Doubles a map."""
    return sample(x, bilinear_positions(x))


def resize(x, size, align_corners=False):
    """Interpolates bilinearly to any size."""

    def positions(pixels, targets):
        if align_corners:
            step = (pixels - 1) / (targets - 1) if targets > 1 else 0
            return [step * target for target in range(targets)]
        return [(target + 0.5) * pixels / targets - 0.5 for target in range(targets)]

    axes = [positions(*pair) for pair in zip(np.shape(x)[1:3], size, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    return sample(x, np.broadcast_to(grid, (len(x), *grid.shape)))


def adaptive_avg_pool(x, size):
    """Means over bins that overlap unless their number divides the size of the map."""
    x = np.asarray(x, np.float64)
    y = np.zeros((x.shape[0], *size, x.shape[3]))
    for i, j in itertools.product(*map(range, size)):
        (top, bottom), (left, right) = (
            (math.floor(n * side / count), math.ceil((n + 1) * side / count))
            for n, side, count in zip((i, j), x.shape[1:3], size, strict=True)
        )
        y[:, i, j] = x[:, top:bottom, left:right].mean(axis=(1, 2))
    return y


def deconvolve(x, kernel):
    """Adds each pixel, times the kernel (HWIO), to the targets from 2i - (k - 1) // 2.

    The kernel is mirrored, as in Flax.
    """
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)[::-1, ::-1]
    size = len(kernel)
    batch, height, width, _ = x.shape
    y = np.zeros((batch, 2 * height, 2 * width, kernel.shape[3]))
    for i, j, p, q in itertools.product(range(height), range(width), range(size), range(size)):
        row, column = 2 * i - (size - 1) // 2 + p, 2 * j - (size - 1) // 2 + q
        if 0 <= row < 2 * height and 0 <= column < 2 * width:
            y[:, row, column] += x[:, i, j] @ kernel[p, q]
    return y


def instance_norm(x, parameters):
    mean, variance = x.mean(axis=(1, 2), keepdims=True), x.var(axis=(1, 2), keepdims=True)
    normal = (x - mean) / np.sqrt(variance + 1e-5)
    return normal * np.asarray(parameters["scale"]) + np.asarray(parameters["bias"])


def gate(x):
    return 12 / (1 + np.exp(-x))


def check_gradients(function, slow, *arguments):
    """Compares gradients with central differences of the slow float64 version."""
    rng = np.random.default_rng(3)
    weights = rng.normal(size=slow(*arguments).shape)
    numbers = tuple(range(len(arguments)))
    gradients = jit(jax.grad(lambda *a: (function(*a) * weights).sum(), numbers))(*arguments)
    for number, gradient in zip(numbers, gradients, strict=True):
        step = 1e-5 * rng.normal(size=gradient.shape)
        ends = []
        for sign in (1, -1):
            moved = [np.asarray(argument, np.float64) for argument in arguments]
            moved[number] = moved[number] + sign * step
            ends.append((slow(*moved) * weights).sum())
        slope = (ends[0] - ends[1]) / 2
        np.testing.assert_allclose((np.asarray(gradient) * step).sum(), slope, rtol=1e-3)
