"""The detectors of other libraries in plain PyTorch, from their published definitions.

Modules have the names that the libraries give their weights. The networks of torchvision are in
torchvision itself. This module imports PyTorch, so tests import it when they run.
"""

import collections

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def relu_all(layers, x):
    for layer in layers:
        x = F.relu(layer(x))
    return x


def nearest(x):
    return x.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)


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


def modulated(x, predicted, weight, stride=1):
    """A modulated deformable convolution, as mmcv and detectron2 use their predictions."""
    first, second, masks = predicted.chunk(3, dim=1)
    offsets = torch.cat((first, second), dim=1)
    return torchvision.ops.deform_conv2d(
        x, offsets, weight, stride=stride, padding=1, mask=masks.sigmoid()
    )


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
