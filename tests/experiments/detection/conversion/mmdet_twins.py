"""The detectors of mmdet in plain PyTorch, from their published definitions.

Modules have the names that mmdet gives its weights. This module imports PyTorch, so tests
import it when they run.
"""

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from tests.experiments.detection.conversion.twin_layers import modulated, nearest, relu_all


class Carafe(nn.Module):
    """mmcv's ``CARAFEPack`` of a factor of 2, a kernel of 5 and one group, by unfolding."""

    def __init__(self, channels, compressed=64):
        super().__init__()
        self.channel_compressor = nn.Conv2d(channels, compressed, 1)
        self.content_encoder = nn.Conv2d(compressed, 4 * 25, 3, padding=1)

    def forward(self, x):
        batch, channels, height, width = x.shape
        logits = self.content_encoder(self.channel_compressor(x))
        kernels = F.softmax(F.pixel_shuffle(logits, 2), dim=1)  # [N, 25, 2 H, 2 W]
        taps = F.unfold(x, 5, padding=2).reshape(batch, channels, 25, height, width)
        return (nearest(taps) * kernels[:, None]).sum(2)


class MmdetDeformable(nn.Module):
    """mmcv's ``ModulatedDeformConv2dPack`` of 3x3 taps and one group."""

    def __init__(self, channels, stride):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, channels, 3, 3) / (9 * channels) ** 0.5)
        self.conv_offset = nn.Conv2d(channels, 27, 3, stride=stride, padding=1)
        self.stride = stride

    def forward(self, x):
        return modulated(x, self.conv_offset(x), self.weight, self.stride)


class Wrapped(nn.Module):
    """A convolution below the name ``conv``, as in mmcv's ``ConvModule``."""

    def __init__(self, *args, **kwargs):
        super().__init__()
        self.conv = nn.Conv2d(*args, **kwargs)

    def forward(self, x):
        return self.conv(x)


class MmdetNeck(nn.Module):
    """mmdet's ``FPN``, or its ``FPN_CARAFE``, which has a lateral for the fifth level too."""

    def __init__(self, carafe):
        super().__init__()
        inputs = (256, 512, 1024, 2048)
        laterals = [Wrapped(channels, 256, 1) for channels in inputs]
        if carafe:
            laterals.append(Wrapped(2048, 256, 3, stride=2, padding=1))
        self.lateral_convs = nn.ModuleList(laterals)
        self.fpn_convs = nn.ModuleList(Wrapped(256, 256, 3, padding=1) for _ in laterals)
        if carafe:
            self.upsample_modules = nn.ModuleList(Carafe(256) for _ in laterals[1:])

    def forward(self, maps):
        count = len(self.lateral_convs)
        maps = [*maps, maps[-1]][:count]
        sums = [lateral(x) for lateral, x in zip(self.lateral_convs, maps, strict=True)]
        for index in range(count - 1, 0, -1):
            raise_by = self.upsample_modules[index - 1] if count == 5 else nearest
            height, width = sums[index - 1].shape[-2:]
            sums[index - 1] = sums[index - 1] + raise_by(sums[index])[..., :height, :width]
        levels = [output(x) for output, x in zip(self.fpn_convs, sums, strict=True)]
        return levels if count == 5 else [*levels, levels[-1][..., ::2, ::2]]


class MmdetRpn(nn.Module):
    def __init__(self):
        super().__init__()
        self.rpn_conv = nn.Conv2d(256, 256, 3, padding=1)
        self.rpn_cls = nn.Conv2d(256, 3, 1)
        self.rpn_reg = nn.Conv2d(256, 12, 1)

    def forward(self, x):
        x = F.relu(self.rpn_conv(x))
        return self.rpn_cls(x), self.rpn_reg(x)


class MmdetBoxHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared_fcs = nn.ModuleList([nn.Linear(256 * 7 * 7, 1024), nn.Linear(1024, 1024)])
        self.fc_cls = nn.Linear(1024, 81)
        self.fc_reg = nn.Linear(1024, 320)

    def forward(self, x):
        x = relu_all(self.shared_fcs, x.flatten(1))
        return self.fc_cls(x), self.fc_reg(x)


class MmdetMaskHead(nn.Module):
    def __init__(self, carafe):
        super().__init__()
        self.convs = nn.ModuleList(Wrapped(256, 256, 3, padding=1) for _ in range(4))
        self.upsample = Carafe(256) if carafe else nn.ConvTranspose2d(256, 256, 2, stride=2)
        self.conv_logits = nn.Conv2d(256, 80, 1)
        self.carafe = carafe

    def forward(self, x):
        x = self.upsample(relu_all(self.convs, x))
        return self.conv_logits(x if self.carafe else F.relu(x))


class MmdetHeads(nn.Module):
    def __init__(self, masks, carafe):
        super().__init__()
        self.bbox_head = MmdetBoxHead()
        if masks:
            self.mask_head = MmdetMaskHead(carafe)


class Mmdet(nn.Module):
    """mmdet's Faster or Mask R-CNN; with ``carafe`` in its neck and its mask head.

    With ``deformable``, ``conv2`` is deformable from Res-3 on ("c3-c5").
    """

    def __init__(self, masks, carafe=False, depth=50, deformable=False):
        super().__init__()
        self.backbone = torchvision.models.get_model(f"resnet{depth}", weights=None)
        del self.backbone.fc
        if deformable:
            for stage in (self.backbone.layer2, self.backbone.layer3, self.backbone.layer4):
                for block in stage:
                    plain = block.conv2
                    block.conv2 = MmdetDeformable(plain.in_channels, plain.stride[0])
        self.neck = MmdetNeck(carafe)
        self.rpn_head = MmdetRpn()
        self.roi_head = MmdetHeads(masks, carafe)

    def features(self, x):
        body = self.backbone
        x = body.maxpool(body.relu(body.bn1(body.conv1(x))))
        maps = []
        for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, x):
        return self.neck(self.features(x))

    def rpn(self, level):
        return self.rpn_head(level)

    def box(self, regions):
        return self.roi_head.bbox_head(regions)

    def mask(self, regions):
        return self.roi_head.mask_head(regions)
