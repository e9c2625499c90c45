"""The names of a ResNet's arrays in the files of several libraries.

Each function converts the path of a variable within a ResNet, without its collection, such as
``("layer1_0", "conv1", "kernel")``, to its source in a file. All libraries use the same shapes.

- :func:`torchvision`: ``conv1``, ``bn1``, ``layer1.0.conv1`` and ``layer1.0.downsample.0``.
  torchvision and timm have no prefix, torchvision's detectors ``backbone.body.``, mmdet
  ``backbone.``. CSAILVision's encoder has no prefix, and ``conv1`` to ``conv3`` in its stem.
  The convolution ``conv2`` of a deformable stage has ``layer2.0.conv2.conv_offset``, as in mmdet.
- :func:`early_mmdet`: the same with ``layer2.0.conv2_offset``, as early versions of mmdet had it.
- :func:`v1c`: the same with ``stem.0`` and ``stem.1`` for the first convolution and its norm. mmseg
  has the prefix ``backbone.``.
- :func:`detectron2`: ``stem.conv1``, ``stem.conv1.norm``, ``res2.0.conv1``, ``res2.0.conv1.norm``,
  ``res2.0.shortcut`` and ``res3.0.conv2_offset``. detectron2's detectors have the prefix
  ``backbone.bottom_up.``.
"""

import dataclasses
import re
from collections.abc import Sequence

from experiments.weights.arrangements import (
    CONVOLUTION,
    DENSE,
    VECTOR,
    Arrangement,
    Unchanged,
)
from experiments.weights.layout import Layout, Path, Source, counter

_STEM = re.compile(r"(conv|bn)([123])")
_BLOCK = re.compile(r"layer(\d)_(\d+)")
# Names of PyTorch's arrays in a module, by Flax's names.
_ARRAYS = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_CLASSIFIER = "fc"
# The predictor of a deformable convolution in mmdet; in early versions of mmdet and in detectron2.
_OFFSETS = ".conv2.conv_offset.", ".conv2_offset."


def source_in_module(module: str, leaf: str, kernel: Arrangement = CONVOLUTION) -> Source:
    """The source of an array in a module of PyTorch.

    Args:
        module: name of the module in the file, such as ``"layer1.0.conv1"``.
        leaf: Flax's name of the array: ``"kernel"``, ``"scale"``, ``"bias"``, ``"mean"`` or
            ``"var"``. An array with another name keeps its name and its axes.
        kernel: arrangement of the module's kernel.
    """
    arrangement = kernel if leaf == "kernel" else VECTOR if leaf in _ARRAYS else Unchanged()
    return Source(f"{module}.{_ARRAYS.get(leaf, leaf)}", arrangement)


def torchvision(path: Sequence[str], prefix: str = "") -> Source:
    """The source of a variable in torchvision's and timm's names.

    The modules that only the ResNets here have, such as CARAFE++, keep their names.

    Args:
        path: path of the variable within the ResNet, without its collection.
        prefix: text before all names of the ResNet, such as ``"backbone.body."``.
    """
    *modules, leaf = path
    kernel = DENSE if modules == [_CLASSIFIER] else CONVOLUTION
    return source_in_module(
        prefix + ".".join(_torchvision_module(each) for each in modules), leaf, kernel
    )


def early_mmdet(path: Sequence[str], prefix: str = "") -> Source:
    """The source of a variable in the names of mmdet's deformable convolutions before version 2.

    Args:
        path: path of the variable within the ResNet, without its collection.
        prefix: text before all names of the ResNet, such as ``"backbone."``.
    """
    source = torchvision(path, prefix)
    return dataclasses.replace(source, name=source.name.replace(*_OFFSETS))


def v1c(path: Sequence[str], prefix: str = "") -> Source:
    """The source of a variable in mmseg's names of a ResNetV1c, whose stem is a sequence.

    Args:
        path: path of the variable within the ResNet, without its collection.
        prefix: text before all names of the ResNet, such as ``"backbone."``.
    """
    if found := _STEM.fullmatch(path[0]):
        kind, number = found.groups()
        # A convolution, its normalisation and a ReLU, three times.
        position = 3 * (int(number) - 1) + (kind == "bn")
        return source_in_module(f"{prefix}stem.{position}", path[-1])
    return torchvision(path, prefix)


def detectron2(path: Sequence[str], prefix: str = "") -> Source:
    """The source of a variable in detectron2's names, where a norm is a part of its convolution.

    Args:
        path: path of the variable within the ResNet, without its collection.
        prefix: text before all names of the ResNet, such as ``"backbone.bottom_up."``.
    """
    *modules, leaf = path
    first, rest = modules[0], modules[1:]
    if found := _BLOCK.fullmatch(first):
        stage, block = map(int, found.groups())
        names = [f"res{stage + 1}.{block}", *map(_detectron2_module, rest)]
    elif _STEM.fullmatch(first):
        names = ["stem", _detectron2_module(first)]
    else:
        names = modules
    source = source_in_module(prefix + ".".join(names), leaf)
    return dataclasses.replace(source, name=source.name.replace(*_OFFSETS))


def _torchvision_module(name: str) -> str:
    fixed = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}
    return fixed.get(name, _BLOCK.sub(r"layer\1.\2", name))


def _detectron2_module(name: str) -> str:
    fixed = {"downsample_conv": "shortcut", "downsample_bn": "shortcut.norm"}
    return fixed.get(name, re.sub(r"^bn(\d)$", r"conv\1.norm", name))


def classification_layout(classifier: bool = True) -> Layout:
    """The layout of torchvision's and timm's ResNets, and of CSAILVision's with a deep stem.

    Args:
        classifier: whether the model has the classifier ``fc``. Otherwise the classifier of the
            file is not used.
    """

    def source(path: Path) -> Source:
        return torchvision(path[1:])

    def unused(name: str) -> str | None:
        if not classifier and name.startswith(f"{_CLASSIFIER}."):
            return "the classifier, which the model lacks"
        return counter(name)

    return Layout("torchvision", source, unused)
