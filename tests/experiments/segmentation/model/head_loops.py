"""Slow float64 versions of the heads' parts, for maps [B, H, W, C] in evaluation mode."""

import itertools

import numpy as np

from tests.experiments.resamplers import loops

BINS = (1, 2, 3, 6)


class Layers:
    """Applies layers with the variables of a Flax module.

    Args:
        variables: ``params`` and ``batch_stats`` of the module.
    """

    def __init__(self, variables):
        self.params, self.stats = variables["params"], variables["batch_stats"]

    def below(self, name):
        return Layers({"params": self.params[name], "batch_stats": self.stats[name]})

    def normalized(self, name, x):
        """A convolution, BatchNorm and ReLU."""
        params, stats = self.params[name], self.stats[name]["bn"]
        y = loops.convolve(x, params["conv"]["kernel"])
        y = (y - stats["mean"]) / np.sqrt(np.asarray(stats["var"], np.float64) + 1e-5)
        return np.maximum(y * params["bn"]["scale"] + params["bn"]["bias"], 0)

    def classified(self, x):
        layer = self.params["classifier"]["conv"]
        return loops.convolve(x, layer["kernel"]) + layer["bias"]


def joined(*maps):
    return np.concatenate(maps, axis=-1)


def doubled(x, size):
    """Doubles a map by nearest interpolation, cropped at its end to a size."""
    return loops.nearest(x)[:, : size[0], : size[1]]


def pyramid_pooling(layers, x, order, upsampler):
    size = x.shape[1:3]
    direct = upsampler == "bilinear"
    middle = size if direct else [(side + 1) // 2 for side in size]
    maps = [x]
    for bins in BINS:
        y = loops.adaptive_avg_pool(x, (bins, bins))
        if order == "resize_first":
            y = layers.normalized(f"bin_{bins}", loops.resize(y, middle))
        else:
            y = loops.resize(layers.normalized(f"bin_{bins}", y), middle)
        maps.append(y if direct else doubled(y, size))
    return layers.normalized("output", joined(*maps))


def psamask(x, side, direction):
    """Follows the definition of channels-first maps, where the first axis of ``y`` is a pixel."""
    x = np.asarray(x)
    batch, height, width, _ = x.shape
    half = (side - 1) // 2
    y = np.zeros((batch, height * width, height, width), x.dtype)
    for h, w, p, q in itertools.product(*map(range, (height, width, side, side))):
        row, column = h + p - half, w + q - half
        if 0 <= row < height and 0 <= column < width:
            value = x[:, h, w, p * side + q]
            if direction == "collect":
                y[:, row * width + column, h, w] = value
            else:
                y[:, h * width + w, row, column] = value
    return y.reshape(batch, height * width, height * width).swapaxes(1, 2)  # targets, sources
