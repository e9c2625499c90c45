"""Functions of the twins in ``mmdet_twins.py`` and ``detectron2_twins.py``.

This module imports PyTorch, so tests import it when they run.
"""

import torch
import torch.nn.functional as F
import torchvision


def relu_all(layers, x):
    for layer in layers:
        x = F.relu(layer(x))
    return x


def nearest(x):
    return x.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)


def modulated(x, predicted, weight, stride=1):
    """A modulated deformable convolution, as mmcv and detectron2 use their predictions."""
    first, second, masks = predicted.chunk(3, dim=1)
    offsets = torch.cat((first, second), dim=1)
    return torchvision.ops.deform_conv2d(
        x, offsets, weight, stride=stride, padding=1, mask=masks.sigmoid()
    )
