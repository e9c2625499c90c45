"""The detectors of detectron2 in plain PyTorch, from their published definitions.

Modules have the names that detectron2 gives its weights. This module imports PyTorch, so tests
import it when they run.
"""

import collections

import torch
import torch.nn.functional as F
from torch import nn

from tests.experiments.detection.conversion.twin_layers import modulated, nearest, relu_all

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class FrozenNorm(nn.Module):
    """detectron2's ``FrozenBatchNorm2d``: all its arrays are buffers."""

    def __init__(self, channels):
        super().__init__()
        for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            self.register_buffer(name, torch.full((channels,), float(value)))

    def forward(self, x):
        arrays = self.running_mean, self.running_var, self.weight, self.bias
        return F.batch_norm(x, *arrays, training=False, eps=1e-5)


class NormedConv(nn.Conv2d):
    """A convolution that holds its normalisation, as detectron2's ``Conv2d``."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs, bias=False)
        self.norm = FrozenNorm(self.out_channels)

    def forward(self, x):
        return self.norm(super().forward(x))


class Detectron2Block(nn.Module):
    """A bottleneck with its stride in the first convolution (``STRIDE_IN_1X1``).

    With ``deformable`` it is a ``DeformBottleneckBlock`` with ``DEFORM_MODULATED``.
    """

    def __init__(self, inputs, width, stride, deformable):
        super().__init__()
        if inputs != 4 * width:
            self.shortcut = NormedConv(inputs, 4 * width, 1, stride=stride)
        self.conv1 = NormedConv(inputs, width, 1, stride=stride)
        if deformable:
            self.conv2_offset = nn.Conv2d(width, 27, 3, padding=1)
        self.conv2 = NormedConv(width, width, 3, padding=1)
        self.conv3 = NormedConv(width, 4 * width, 1)

    def spatial(self, x):
        if not hasattr(self, "conv2_offset"):
            return self.conv2(x)
        return self.conv2.norm(modulated(x, self.conv2_offset(x), self.conv2.weight))

    def forward(self, x):
        y = self.conv3(F.relu(self.spatial(F.relu(self.conv1(x)))))
        return F.relu(y + (self.shortcut(x) if hasattr(self, "shortcut") else x))


class Detectron2ResNet(nn.Module):
    def __init__(self, depth, deformable):
        super().__init__()
        self.stem = nn.Module()
        self.stem.conv1 = NormedConv(3, 64, 7, stride=2, padding=3)
        inputs = 64
        for stage, count in enumerate(BLOCKS[depth]):
            width = 64 * 2**stage
            blocks = []
            for index in range(count):
                stride = 1 if index or not stage else 2
                blocks.append(Detectron2Block(inputs, width, stride, deformable and stage > 0))
                inputs = 4 * width
            setattr(self, f"res{stage + 2}", nn.Sequential(*blocks))

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem.conv1(x)), 3, stride=2, padding=1)
        maps = []
        for stage in range(2, 6):
            x = getattr(self, f"res{stage}")(x)
            maps.append(x)
        return maps


class Detectron2Backbone(nn.Module):
    def __init__(self, depth, deformable):
        super().__init__()
        for level in range(2, 6):
            setattr(self, f"fpn_lateral{level}", nn.Conv2d(64 * 2**level, 256, 1))
            setattr(self, f"fpn_output{level}", nn.Conv2d(256, 256, 3, padding=1))
        self.bottom_up = Detectron2ResNet(depth, deformable)

    def forward(self, x):
        x, levels = None, [*enumerate(self.bottom_up(x), start=2)]
        outputs = []
        for level, features in reversed(levels):
            lateral = getattr(self, f"fpn_lateral{level}")(features)
            x = lateral if x is None else lateral + nearest(x)
            outputs.insert(0, getattr(self, f"fpn_output{level}")(x))
        return [*outputs, F.max_pool2d(outputs[-1], 1, stride=2)]


class Detectron2Rpn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(256, 256, 3, padding=1)
        self.objectness_logits = nn.Conv2d(256, 3, 1)
        self.anchor_deltas = nn.Conv2d(256, 12, 1)


def sequence(**layers):
    return nn.Sequential(collections.OrderedDict(layers))


class Detectron2(nn.Module):
    """detectron2's Faster or Mask R-CNN with FPN; ``deformable`` from Res-3 on."""

    def __init__(self, masks, depth=50, deformable=False):
        super().__init__()
        self.backbone = Detectron2Backbone(depth, deformable)
        self.proposal_generator = nn.Module()
        self.proposal_generator.rpn_head = Detectron2Rpn()
        self.roi_heads = nn.Module()
        self.roi_heads.box_head = sequence(fc1=nn.Linear(12544, 1024), fc2=nn.Linear(1024, 1024))
        self.roi_heads.box_predictor = nn.Module()
        self.roi_heads.box_predictor.cls_score = nn.Linear(1024, 81)
        self.roi_heads.box_predictor.bbox_pred = nn.Linear(1024, 320)
        if masks:
            convolutions = {
                f"mask_fcn{index}": nn.Conv2d(256, 256, 3, padding=1) for index in range(1, 5)
            }
            self.roi_heads.mask_head = sequence(
                **convolutions,
                deconv=nn.ConvTranspose2d(256, 256, 2, stride=2),
                predictor=nn.Conv2d(256, 80, 1),
            )

    def features(self, x):
        return self.backbone.bottom_up(x)

    def forward(self, x):
        return self.backbone(x)

    def rpn(self, level):
        head = self.proposal_generator.rpn_head
        x = F.relu(head.conv(level))
        return head.objectness_logits(x), head.anchor_deltas(x)

    def box(self, regions):
        x = relu_all(self.roi_heads.box_head, regions.flatten(1))
        predictor = self.roi_heads.box_predictor
        return predictor.cls_score(x), predictor.bbox_pred(x)

    def mask(self, regions):
        *hidden, predictor = self.roi_heads.mask_head
        return predictor(relu_all(hidden, regions))
