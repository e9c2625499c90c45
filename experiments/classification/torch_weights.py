"""Weights of ResNets that were trained in PyTorch, for :class:`experiments.models.resnet.ResNet`.

torchvision and timm use the same names and shapes for the weights of a plain ResNet.
"""

from collections.abc import Collection
from pathlib import Path

from jaxtyping import Array, Float, PyTree

from experiments.weights.loading import Loaded, load
from experiments.weights.resnets import classification_layout


def load_torch_resnet(
    path: Path,
    variables: PyTree[Float[Array, "..."]],
    keep: Collection[str] = (),
) -> Loaded:
    """Reads the ``state_dict`` of a torchvision or timm ResNet into the variables of a model.

    Convolutions ``[O, I, H, W]`` become ``[H, W, I, O]``, the classifier ``[out, in]`` becomes
    ``[in, out]``. If the model has no classifier, the classifier of the file is not used.
    Everything else must match, except for ``keep``::

        # CARAFE++ instead of strided convolutions: the new layers keep their own initial values
        load_torch_resnet(path, variables, keep=("pool", "resample", "downsample_resample"))
        # LIP, which also has 1x1 instead of some 3x3 convolutions
        blocks = ("layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2")
        new = ("pool", "resample_trunk", "resample", "downsample_resample")
        load_torch_resnet(path, variables, keep=(*new, *blocks))
        # another number of classes
        load_torch_resnet(path, variables, keep=("fc",))

    Names and shapes do not determine what a network computes. The following networks have the names
    and shapes of a plain ResNet, so they are accepted, but then classify badly: timm's
    ``resnetaa50`` and ``resnetblur50``; networks in the style of Caffe, with the stride in the
    first convolution of a bottleneck, or with BGR inputs; and networks that were trained with
    dilations, or on images that were normalised in another way.

    Args:
        path: path of the file.
        variables: variables of the model, with ``"params"`` and ``"batch_stats"``, or their shapes.
        keep: submodules that keep their values in ``variables``, by PyTorch's names or parts of
            them.

    Returns:
        Complete variables, and the arrays that are not used; see
        :func:`experiments.weights.loading.load`.

    Raises:
        WeightsError: the file cannot be read or does not match the model; see
            :func:`experiments.weights.loading.load`.
    """
    layout = classification_layout("fc" in variables["params"])
    return load(path, variables, layout, keep)
