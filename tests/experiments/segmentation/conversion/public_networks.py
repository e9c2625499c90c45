"""UperNet and PSPNet in plain PyTorch, with the names of CSAILVision's networks and of mmseg's.

Only tests with PyTorch import this module. ``forward`` returns all stages by name.
"""

import torch
import torch.nn.functional as F
from torch import nn

BINS = (1, 2, 3, 6)
BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


class SummedNorm(nn.BatchNorm2d):
    """BatchNorm with the additional buffers of CSAILVision's synchronised BatchNorm."""

    def __init__(self, channels):
        super().__init__(channels)
        self.register_buffer("_tmp_running_mean", torch.zeros(channels))
        self.register_buffer("_tmp_running_var", torch.ones(channels))
        self.register_buffer("_running_iter", torch.ones(1))


def conv(into, out, size=1, stride=1, dilation=1):
    return nn.Conv2d(into, out, size, stride, dilation * (size // 2), dilation, bias=False)


def layer(norm, into, out, size=1):
    return [conv(into, out, size), norm(out), nn.ReLU()]


class Block(nn.Module):
    """A basic block or a bottleneck; the first 3x3 convolution has the stride."""

    def __init__(self, norm, into, features, stride, dilations, depth):
        super().__init__()
        first, second = dilations
        out = features if depth < 50 else 4 * features
        if depth < 50:
            convolutions = [
                conv(into, features, 3, stride, first),
                conv(features, out, 3, 1, second),
            ]
        else:
            convolutions = [
                conv(into, features),
                conv(features, features, 3, stride, first),
                conv(features, out),
            ]
        self.count = len(convolutions)
        for index, convolution in enumerate(convolutions, 1):
            self.add_module(f"conv{index}", convolution)
            self.add_module(f"bn{index}", norm(convolution.out_channels))
        self.downsample = nn.Identity()
        if stride > 1 or into != out:
            self.downsample = nn.Sequential(conv(into, out, 1, stride), norm(out))
        self.out = out

    def forward(self, x):
        y = x
        for index in range(1, self.count + 1):
            y = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(y))
            y = F.relu(y) if index < self.count else y
        return F.relu(y + self.downsample(x))


class ResNet(nn.Module):
    """A ResNet with a stem of three convolutions, with strides up to 32 or dilations."""

    def __init__(self, norm, depth, width, is_csail, is_dilated):
        super().__init__()
        stem = (width, width, 2 * width) if is_csail else (width // 2, width // 2, width)
        into, layers = 3, []
        for index, features in enumerate(stem):
            layers += [conv(into, features, 3, 2 if index == 0 else 1), norm(features), nn.ReLU()]
            into = features
        self.is_csail = is_csail
        if is_csail:
            names = [f"{kind}{index}" for index in (1, 2, 3) for kind in ("conv", "bn", "relu")]
            for name, module in zip(names, layers, strict=True):
                self.add_module(name, module)
            self.stem_names = names
        else:
            self.stem = nn.Sequential(*layers)
        strides = (1, 2, 1, 1) if is_dilated else (1, 2, 2, 2)
        dilations = (1, 1, 2, 4) if is_dilated else (1, 1, 1, 1)
        for stage, count in enumerate(BLOCKS[depth]):
            blocks = []
            for index in range(count):
                stride = strides[stage] if index == 0 else 1
                dilation = dilations[stage]
                # Where the dilation replaces a stride, the first convolution has the half.
                first = max(1, dilation // 2) if index == 0 else dilation
                block = Block(norm, into, width * 2**stage, stride, (first, dilation), depth)
                blocks.append(block)
                into = block.out
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))

    def forward(self, x):
        if self.is_csail:
            for name in self.stem_names:
                x = getattr(self, name)(x)
        else:
            x = self.stem(x)
        x = F.max_pool2d(x, 3, 2, 1)
        maps = []
        for stage in (1, 2, 3, 4):
            x = getattr(self, f"layer{stage}")(x)
            maps.append(x)
        return maps


def resize(x, like):
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


class CsailDecoder(nn.Module):
    """The decoder ``UPerNet`` or ``PPMDeepsup``; its auxiliary head reads C4."""

    def __init__(self, architecture, into, channels, auxiliary, classes):
        super().__init__()
        norm, c5 = SummedNorm, into[-1]
        self.architecture = architecture
        joined = c5 + 4 * channels
        if architecture == "upernet":
            self.ppm_conv = nn.ModuleList(nn.Sequential(*layer(norm, c5, channels)) for _ in BINS)
            self.ppm_last_conv = nn.Sequential(*layer(norm, joined, channels, 3))
            self.fpn_in = nn.ModuleList(nn.Sequential(*layer(norm, c, channels)) for c in into[:-1])
            self.fpn_out = nn.ModuleList(
                nn.Sequential(nn.Sequential(*layer(norm, channels, channels, 3))) for _ in into[:-1]
            )
            fusion = nn.Sequential(*layer(norm, 4 * channels, channels, 3))
            self.conv_last = nn.Sequential(fusion, nn.Conv2d(channels, classes, 1))
        else:
            self.ppm = nn.ModuleList(
                nn.Sequential(nn.AdaptiveAvgPool2d(bins), *layer(norm, c5, channels))
                for bins in BINS
            )
            self.cbr_deepsup = nn.Sequential(*layer(norm, into[-2], auxiliary, 3))
            self.conv_last = nn.Sequential(
                *layer(norm, joined, channels, 3),
                nn.Dropout2d(0.1),
                nn.Conv2d(channels, classes, 1),
            )
            self.conv_last_deepsup = nn.Conv2d(auxiliary, classes, 1)

    def forward(self, maps):
        c5 = maps[-1]
        if self.architecture == "pspnet":
            joined = torch.cat([c5, *(resize(module(c5), c5) for module in self.ppm)], 1)
            return {
                "ppm": self.conv_last[:3](joined),
                "logits": self.conv_last(joined),
                "auxiliary": self.conv_last_deepsup(self.cbr_deepsup(maps[-2])),
            }
        pooled = [resize(F.adaptive_avg_pool2d(c5, bins), c5) for bins in BINS]
        convolved = [module(x) for module, x in zip(self.ppm_conv, pooled, strict=True)]
        p5 = self.ppm_last_conv(torch.cat([c5, *convolved], 1))
        return top_down(maps, p5, self.fpn_in, self.fpn_out) | {
            "logits": self.conv_last(fused(maps, p5, self.fpn_in, self.fpn_out))
        }


def levels(maps, p5, laterals, outputs):
    """P2, P3, P4 and P5."""
    sums = [p5]
    for lateral, x in zip(reversed(laterals), reversed(maps[:-1]), strict=True):
        side = lateral(x)
        sums.insert(0, side + resize(sums[0], side))
    return [*(output(x) for output, x in zip(outputs, sums[:-1], strict=True)), p5]


def fused(maps, p5, laterals, outputs):
    found = levels(maps, p5, laterals, outputs)
    return torch.cat([resize(x, found[0]) for x in found], 1)


def top_down(maps, p5, laterals, outputs):
    found = levels(maps, p5, laterals, outputs)
    return {"ppm": p5, **{f"output_{i}": x for i, x in zip((2, 3, 4), found[:-1], strict=True)}}


class ConvModule(nn.Module):
    """A layer of mmcv."""

    def __init__(self, into, out, size=1):
        super().__init__()
        self.conv, self.bn = conv(into, out, size), nn.BatchNorm2d(out)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class MmsegHead(nn.Module):
    """``UPerHead`` or ``PSPHead``."""

    def __init__(self, architecture, into, channels, classes):
        super().__init__()
        c5 = into[-1]
        self.architecture = architecture
        self.conv_seg = nn.Conv2d(channels, classes, 1)
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), ConvModule(c5, channels)) for bins in BINS
        )
        self.bottleneck = ConvModule(c5 + 4 * channels, channels, 3)
        if architecture == "upernet":
            self.lateral_convs = nn.ModuleList(ConvModule(c, channels) for c in into[:-1])
            self.fpn_convs = nn.ModuleList(ConvModule(channels, channels, 3) for _ in into[:-1])
            self.fpn_bottleneck = ConvModule(4 * channels, channels, 3)

    def forward(self, maps):
        c5 = maps[-1]
        p5 = self.bottleneck(torch.cat([c5, *(resize(m(c5), c5) for m in self.psp_modules)], 1))
        if self.architecture == "pspnet":
            return {"ppm": p5, "logits": self.conv_seg(p5)}
        found = fused(maps, p5, self.lateral_convs, self.fpn_convs)
        return top_down(maps, p5, self.lateral_convs, self.fpn_convs) | {
            "logits": self.conv_seg(self.fpn_bottleneck(found))
        }


class MmsegAuxiliary(nn.Module):
    """``FCNHead`` with one convolution."""

    def __init__(self, into, channels, classes):
        super().__init__()
        self.conv_seg = nn.Conv2d(channels, classes, 1)
        self.convs = nn.Sequential(ConvModule(into, channels, 3))

    def forward(self, x):
        return self.conv_seg(self.convs(x))


class Mmseg(nn.Module):
    """The whole network of mmseg."""

    def __init__(self, architecture, depth, width=64, channels=512, classes=150):
        super().__init__()
        into = channels_of(depth, width)
        is_dilated = architecture == "pspnet"
        self.backbone = ResNet(nn.BatchNorm2d, depth, width, False, is_dilated)
        self.decode_head = MmsegHead(architecture, into, channels, classes)
        self.auxiliary_head = MmsegAuxiliary(into[-2], channels // 2, classes)

    def parts(self):
        """The modules that are saved to files of their own."""
        return [self]

    def forward(self, x):
        maps = self.backbone(x)
        stages = {f"c{index}": x for index, x in enumerate(maps, 2)}
        return stages | self.decode_head(maps) | {"auxiliary": self.auxiliary_head(maps[-2])}


class Csail(nn.Module):
    """Encoder and decoder of CSAILVision's implementation."""

    def __init__(self, architecture, depth, width=64, channels=512, classes=150):
        super().__init__()
        into = channels_of(depth, width)
        self.encoder = ResNet(SummedNorm, depth, width, True, architecture == "pspnet")
        self.decoder = CsailDecoder(architecture, into, channels, into[-1] // 4, classes)

    def parts(self):
        """The modules that are saved to files of their own."""
        return [self.encoder, self.decoder]

    def forward(self, x):
        maps = self.encoder(x)
        return {f"c{index}": x for index, x in enumerate(maps, 2)} | self.decoder(maps)


NETWORKS = {"csail": Csail, "mmseg": Mmseg}


def channels_of(depth, width):
    return [(4 if depth >= 50 else 1) * width * 2**stage for stage in range(4)]


def randomized(network, seed=0):
    """Draws weights with which the maps of all stages have a standard deviation near 1."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 0.9)
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            module.num_batches_tracked.fill_(12)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias)
    return network.eval()
