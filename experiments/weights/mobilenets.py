"""The names of a MobileNetV2's arrays in torchvision's files."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from jaxtyping import Array, Float, PyTree

from experiments.weights.arrangements import DENSE
from experiments.weights.layout import Layout, Source, counter
from experiments.weights.loading import load
from experiments.weights.resnets import source_in_module

_BLOCK = re.compile(r"block(\d+)")
_LAYERS = ("expand", "depthwise", "project")
# Modules outside of the blocks; in torchvision a classifier follows a dropout.
_FIXED = {"stem": "features.0", "head": "features.18", "classifier": "classifier.1"}


def load_mobilenet(
    path: Path, variables: PyTree[Float[Array, "..."]]
) -> PyTree[Float[Array, "..."]]:
    """Reads the ``state_dict`` of torchvision's ``mobilenet_v2`` into the variables of a model.

    Convolutions ``[O, I, H, W]`` become ``[H, W, I, O]``, the classifier ``[out, in]`` becomes
    ``[in, out]``. The counters of PyTorch's BatchNorm are not used. If the model has no classifier
    and no last 1x1 convolution, because its variables were made with ``method="features"``, these
    arrays of the file are not used. Everything else must match. ::

        model = MobileNetV2()
        shapes = jax.eval_shape(model.init, jax.random.key(0), images)
        variables = load_mobilenet(pretrained_mobilenet(), shapes)

    Args:
        path: path of the file; see :func:`experiments.weights.files.open_weights`.
            :func:`experiments.weights.public_file.pretrained_mobilenet` returns such a path.
        variables: variables of a :class:`experiments.models.mobilenet.MobileNetV2`, with
            ``"params"`` and ``"batch_stats"``, or their shapes.

    Returns:
        Complete variables with the structure, shapes and dtypes of ``variables``.

    Raises:
        WeightsError: the file cannot be read or does not match the model. The message names the
            arrays that are missing, unexpected or of another shape; see
            :func:`experiments.weights.loading.load`.
    """
    return load(path, variables, mobilenet_layout({*variables["params"]})).variables


def mobilenet_layout(modules: Collection[str]) -> Layout:
    """The layout of torchvision's MobileNetV2.

    Args:
        modules: names of the submodules of the model. If ``head`` or ``classifier`` is not among
            them, its arrays in the file are not used.
    """
    optional = ("head", "classifier")
    lacking = tuple(f"{_FIXED[name]}." for name in optional if name not in modules)

    def unused(name: str) -> str | None:
        if name.startswith(lacking):
            return "a layer after the features, which the model lacks"
        return counter(name)

    return Layout("torchvision", lambda path: torchvision(path[1:]), unused)


def torchvision(path: Sequence[str]) -> Source:
    """The source of a variable in torchvision's names.

    Args:
        path: path of the variable within the MobileNetV2, without its collection, such as
            ``("block2", "expand", "conv", "kernel")``.
    """
    first, *rest, leaf = path
    if first == "classifier":
        return source_in_module(_FIXED[first], leaf, DENSE)
    index = int(rest[-1] == "bn")
    if found := _BLOCK.fullmatch(first):
        number = int(found[1])
        layers = _LAYERS[1:] if number == 1 else _LAYERS  # the first block does not expand
        position = layers.index(rest[0])
        # Only the last convolution and its norm are not in a sequence of their own.
        last = rest[0] == _LAYERS[-1]
        module = f"{position + index}" if last else f"{position}.{index}"
        return source_in_module(f"features.{number}.conv.{module}", leaf)
    return source_in_module(f"{_FIXED[first]}.{index}", leaf)
