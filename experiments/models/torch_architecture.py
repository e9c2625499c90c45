"""Recognises networks by the names and shapes of their arrays, for messages about weights."""

from collections.abc import Mapping, Sequence

from experiments.models.resnet import BLOCKS

# An array that all ResNets of torchvision and timm have.
_FIRST_BLOCK = "layer1.0.conv1.weight"
_STAGES = (1, 2, 3, 4)

# Parts of names that other networks have. The first match counts.
_OTHERS = {
    "blocks.0.attn.": "a vision transformer",
    "encoder_layer_0.": "a vision transformer of torchvision",
    "patch_embed.": "a transformer",
    "conv_stem.": "an EfficientNet or a MobileNet of timm",
    "blocks.0.conv_dw.": "a ConvNeXt",
    "denseblock1.": "a DenseNet",
    "features.1.conv.": "a MobileNetV2 of torchvision",
    "embedder.embedder.": "a ResNet of transformers, with other names",
    "res2.0.": "a ResNet of detectron2, with other names",
}


def architecture(shapes: Mapping[str, Sequence[int]]) -> str:
    """Describes the network that has arrays of given names and shapes.

    Args:
        shapes: shapes by PyTorch's name, without a prefix that all names share.

    Returns:
        A text such as "ResNet-50 (bottlenecks 3, 4, 6, 3; width 64; stem 7x7 of 3 channels; 1000
        classes)", or "no ResNet, but ..." with a hint.
    """
    if _FIRST_BLOCK in shapes and any(_blocks(shapes, stage) for stage in _STAGES[1:]):
        return _residual(shapes)
    holders = sorted({_prefix(name) for name in shapes if name.endswith(f".{_FIRST_BLOCK}")})
    if holders:
        others = sorted({f"{name.partition('.')[0]}." for name in shapes} - set(holders))
        return (
            f"a ResNet below {', '.join(holders)} beside {', '.join(others) or 'nothing'}: save "
            "only its own entries"
        )
    for part, network in _OTHERS.items():
        if any(part in name for name in shapes):
            return f"no ResNet, but {network}, by {part!r} in its names"
    return f"no ResNet, by its names {list(shapes)[:3]}" if shapes else "nothing: it is empty"


def _prefix(name: str) -> str:
    return name[: -len(_FIRST_BLOCK)]


def _residual(shapes: Mapping[str, Sequence[int]]) -> str:
    bottlenecks = "layer1.0.conv3.weight" in shapes
    blocks = tuple(_blocks(shapes, stage) for stage in _STAGES)
    depth = next(
        (d for d, known in BLOCKS.items() if known == blocks and (d >= 50) == bottlenecks), None
    )
    kind = "bottlenecks" if bottlenecks else "basic blocks"
    parts = [f"{kind} {', '.join(map(str, blocks))}"]
    if spatial := _convolution(shapes, "layer1.0.conv2.weight"):
        out, into, *_ = spatial
        parts.append(f"width {out}")
        parts += [f"{out // into} groups"] if 0 < into < out else []
    stem = [_convolution(shapes, f"conv{index}.weight") for index in (1, 2, 3)]
    if found := [shape for shape in stem if shape]:
        sizes = ", ".join("x".join(map(str, size)) for _, _, *size in found)
        channels = ", ".join(str(into) for _, into, *_ in found)
        parts.append(f"stem {sizes} of {channels} channels")
    else:
        parts.append("another stem")
    parts += ["squeeze-and-excitation"] if any(".se." in name for name in shapes) else []
    classes = shapes.get("fc.weight")
    parts.append(f"{classes[0]} classes" if classes else "no classifier fc")
    return f"{f'ResNet-{depth}' if depth else 'a ResNet'} ({'; '.join(parts)})"


def _convolution(shapes: Mapping[str, Sequence[int]], name: str) -> Sequence[int] | None:
    """Returns the shape ``[O, I, H, W]`` of a convolution; None for another array."""
    shape = shapes.get(name, ())
    return shape if len(shape) == 4 else None


def _blocks(shapes: Mapping[str, Sequence[int]], stage: int) -> int:
    names = [name for name in shapes if name.startswith(f"layer{stage}.")]
    return len({name.split(".")[1] for name in names})
