"""UperNet, PSPNet and PSANet in plain PyTorch, whose submodules have the same names as in Flax.

Only tests with PyTorch import this module.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

BINS = (1, 2, 3, 6)


class Bottleneck(nn.Module):
    def __init__(self, into, features, stride, dilation, is_first):
        super().__init__()
        out = 4 * features
        self.conv1 = nn.Conv2d(into, features, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.conv3 = nn.Conv2d(features, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.is_first = is_first
        if is_first:
            self.downsample_conv = nn.Conv2d(into, out, 1, stride, bias=False)
            self.downsample_bn = nn.BatchNorm2d(out)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (self.downsample_bn(self.downsample_conv(x)) if self.is_first else x))


class Backbone(nn.Module):
    """ResNet-50 with a stem of three convolutions."""

    def __init__(self, stem, width, is_dilated):
        super().__init__()
        into = 3
        for index, features in enumerate(stem, 1):
            stride = 2 if index == 1 else 1
            self.add_module(f"conv{index}", nn.Conv2d(into, features, 3, stride, 1, bias=False))
            self.add_module(f"bn{index}", nn.BatchNorm2d(features))
            into = features
        strides = (1, 2, 1, 1) if is_dilated else (1, 2, 2, 2)
        # Dilations of the first block of a stage, and of the others.
        first, others = ((1, 1, 1, 2), (1, 1, 2, 4)) if is_dilated else ((1,) * 4, (1,) * 4)
        self.stages = []
        for stage, blocks in enumerate((3, 4, 6, 3)):
            features = width * 2**stage
            names = [f"layer{stage + 1}_{index}" for index in range(blocks)]
            for name in names:
                is_first = name == names[0]
                stride = strides[stage] if is_first else 1
                dilation = (first if is_first else others)[stage]
                block = Bottleneck(into, features, stride, dilation, is_first)
                self.add_module(name, block)
                into = 4 * features
            self.stages.append(names)

    def forward(self, x):
        for index in (1, 2, 3):
            x = F.relu(getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(x)))
        x = F.max_pool2d(x, 3, 2, 1)
        maps = []
        for names in self.stages:
            for name in names:
                x = getattr(self, name)(x)
            maps.append(x)
        return maps


class Layer(nn.Module):
    def __init__(self, into, out, size=1):
        super().__init__()
        self.conv = nn.Conv2d(into, out, size, padding=size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class Classifier(nn.Module):
    def __init__(self, into, classes):
        super().__init__()
        self.conv = nn.Conv2d(into, classes, 1)

    def forward(self, x):
        return self.conv(x)


def resize(x, like, align_corners=False):
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=align_corners)


class PyramidPooling(nn.Module):
    def __init__(self, into, channels, order):
        super().__init__()
        self.order = order
        for bins in BINS:
            self.add_module(f"bin_{bins}", Layer(into, channels))
        self.output = Layer(into + 4 * channels, channels, 3)

    def forward(self, x):
        maps = [x]
        for bins in BINS:
            y, layer = nn.AdaptiveAvgPool2d(bins)(x), getattr(self, f"bin_{bins}")
            if self.order == "resize_first":
                maps.append(layer(resize(y, x)))
            else:
                maps.append(resize(layer(y), x))
        return self.output(torch.cat(maps, 1))


class UperNetHead(nn.Module):
    def __init__(self, into, channels, classes, order):
        super().__init__()
        self.ppm = PyramidPooling(into[-1], channels, order)
        for level in (2, 3, 4):
            self.add_module(f"lateral_{level}", Layer(into[level - 2], channels))
            self.add_module(f"output_{level}", Layer(channels, channels, 3))
        self.fusion = Layer(4 * channels, channels, 3)
        self.classifier = Classifier(channels, classes)

    def forward(self, maps):
        f = self.ppm(maps[-1])
        levels = [f]
        for level in (4, 3, 2):
            lateral = getattr(self, f"lateral_{level}")(maps[level - 2])
            f = lateral + resize(f, lateral)
            levels.insert(0, getattr(self, f"output_{level}")(f))
        fused = torch.cat([resize(p, levels[0]) for p in levels], 1)
        return self.classifier(self.fusion(fused))


class PSPNetHead(nn.Module):
    def __init__(self, into, channels, classes, order):
        super().__init__()
        self.ppm = PyramidPooling(into[-1], channels, order)
        self.classifier = Classifier(channels, classes)

    def forward(self, maps):
        return self.classifier(self.ppm(maps[-1]))


def psamask(x, side, direction):
    batch, _, height, width = x.shape
    half = (side - 1) // 2
    y = x.new_zeros(batch, height * width, height, width)
    for h, w, p, q in itertools.product(*map(range, (height, width, side, side))):
        row, column = h + p - half, w + q - half
        if 0 <= row < height and 0 <= column < width:
            if direction == "collect":
                y[:, row * width + column, h, w] = x[:, p * side + q, h, w]
            else:
                y[:, h * width + w, row, column] = x[:, p * side + q, h, w]
    return y


class Attention(nn.Module):
    def __init__(self, into, channels, side, direction):
        super().__init__()
        self.reduce = Layer(into, channels)
        self.hidden = Layer(channels, channels)
        self.masks = nn.Conv2d(channels, side**2, 1, bias=False)
        self.side, self.direction = side, direction

    def forward(self, x):
        size = [(side - 1) // 2 + 1 for side in x.shape[2:]]
        x = F.interpolate(self.reduce(x), size, mode="bilinear", align_corners=True)
        y = psamask(self.masks(self.hidden(x)), self.side, self.direction).softmax(1)
        return torch.bmm(x.flatten(2), y.flatten(2)).view_as(x)


class PSANetHead(nn.Module):
    def __init__(self, into, channels, classes, side):
        super().__init__()
        into = into[-1]
        self.collect = Attention(into, channels, side, "collect")
        self.distribute = Attention(into, channels, side, "distribute")
        self.projection = Layer(2 * channels, into)
        self.output = Layer(2 * into, channels, 3)
        self.classifier = Classifier(channels, classes)

    def forward(self, maps):
        x = maps[-1]
        y = self.projection(torch.cat([self.collect(x), self.distribute(x)], 1))
        return self.classifier(self.output(torch.cat([x, resize(y, x, True)], 1)))


class AuxiliaryHead(nn.Module):
    def __init__(self, into, channels, classes):
        super().__init__()
        self.hidden = Layer(into, channels // 2, 3)
        self.classifier = Classifier(channels // 2, classes)

    def forward(self, x):
        return self.classifier(self.hidden(x))


class Segmenter(nn.Module):
    """Returns logits and auxiliary logits, or None."""

    def __init__(self, config, classes):
        super().__init__()
        width = config.backbone.width
        stem = {"deep": (width, width, 2 * width), "v1c": (width // 2, width // 2, width)}
        into = [4 * width * 2**stage for stage in range(4)]
        is_upernet = config.architecture == "upernet"
        self.backbone = Backbone(stem[config.backbone.stem], width, not is_upernet)
        if config.architecture == "psanet":
            self.head = PSANetHead(into, config.channels, classes, config.mask_side)
        else:
            make = UperNetHead if is_upernet else PSPNetHead
            self.head = make(into, config.channels, classes, config.pooling_order)
        self.auxiliary = None
        if config.auxiliary:
            self.auxiliary = AuxiliaryHead(into[2], config.channels, classes)

    def forward(self, x):
        maps = self.backbone(x)
        return self.head(maps), self.auxiliary(maps[2]) if self.auxiliary else None
