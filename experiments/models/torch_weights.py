"""Weights of ResNets that were trained in PyTorch, for the models in :mod:`.resnet`.

torchvision and timm use the same names and shapes for the weights of a plain ResNet. Running
statistics are used unchanged, but they differ in training: PyTorch updates the running variance
with the unbiased variance of a batch (divided by ``n - 1``, with ``n`` values a channel), Flax with
the biased one (divided by ``n``). Both normalise the batch itself by the biased variance.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from experiments.engine.finite import bad_values
from experiments.engine.text import listed
from experiments.models.torch_architecture import architecture
from experiments.weights.files import Entry, WeightsError, open_weights

_BLOCK = re.compile(r"(layer\d)_(\d+)")
_TORCH_NAMES = {
    "downsample_conv": "downsample.0",
    "downsample_bn": "downsample.1",
    "kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
# The axis of a Flax array for each axis of PyTorch's array, by rank: HWIO to OIHW, [in, out] to
# [out, in].
_TORCH_AXES = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
_CLASSIFIER = "fc."
_VARIANCE = "running_var"


def load_torch_resnet(
    path: Path,
    variables: PyTree[Float[Array, "..."]],
    keep: Collection[str] = (),
) -> PyTree[Float[Array, "..."]]:
    """Reads the ``state_dict`` of a torchvision or timm ResNet into the variables of a model.

    Convolutions ``[O, I, H, W]`` become ``[H, W, I, O]``, the classifier ``[out, in]`` becomes
    ``[in, out]``. The names may share a prefix such as ``module.``. If the model has no classifier,
    the classifier of the file is ignored. Everything else must match, except for ``keep``::

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
        path: path of a file from ``safetensors`` or ``torch.save``; see
            :func:`experiments.weights.files.open_weights`.
        variables: variables of the model, with ``"params"`` and ``"batch_stats"``, which provide
            structure, shapes and dtypes: half and double precision in the file are converted to the
            model's float32. Shapes from ``jax.eval_shape`` suffice.
        keep: submodules that keep their values in ``variables``, by PyTorch's names or parts of
            them: ``"conv2"`` means the ``conv2`` of every block. The file's values for these
            submodules are ignored.

    Returns:
        Complete variables with the structure of ``variables``.

    Raises:
        WeightsError: the file cannot be opened; a name in ``keep`` matches no submodule; or the
            file does not match the model. Then the message names both networks, and each entry that
            is missing, unexpected or of another shape or kind (of more than 20 entries, the first
            six). If an entry has values that are NaN, infinite, beyond 1e19 or, for a variance,
            negative, the message names these entries in the same way.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(variables)
    names = [_torch_name([key.key for key in keys[1:]]) for keys, _ in leaves]
    _check_kept(keep, names)
    expected = {
        name: tuple(leaf.shape[axis] for axis in _torch_axes(leaf))
        for name, (_, leaf) in zip(names, leaves, strict=True)
    }
    with open_weights(path) as entries:
        entries = _without_prefix(entries, {name.partition(".")[0] for name in names})
        if problems := _differences(expected, entries, keep):
            raise WeightsError(_mismatch_message(path, expected, entries, problems))
        loaded, faults = [], []
        for name, (_, leaf) in zip(names, leaves, strict=True):
            if _is_in(name, keep):
                loaded.append(leaf)
                continue
            value = entries[name].read()
            if fault := bad_values(value, name.endswith(_VARIANCE)):
                faults.append(f"{name}: {fault}")
                continue
            value = value.astype(leaf.dtype).transpose(np.argsort(_torch_axes(leaf)))
            loaded.append(jnp.asarray(value))
    if faults:
        raise WeightsError(
            f"{path} holds unusable values in {len(faults)} of the entries: {listed(faults)}"
        )
    return jax.tree.unflatten(structure, loaded)


def _differences(
    expected: Mapping[str, Sequence[int]], found: Mapping[str, Entry], keep: Collection[str]
) -> dict[str, str]:
    """Explains for each entry of a file why it does not match a model, sorted by name."""
    has_classifier = any(name.startswith(_CLASSIFIER) for name in expected)
    problems = {}
    for name in expected.keys() | found.keys():
        if _is_in(name, keep) or (name.startswith(_CLASSIFIER) and not has_classifier):
            continue
        shape, entry = expected.get(name), found.get(name)
        if shape is None or entry is None or tuple(shape) != entry.shape:
            have = "nothing" if entry is None else list(entry.shape)
            want = "nothing" if shape is None else list(shape)
            problems[name] = f"expected {want}, found {have}"
        elif not entry.floats:
            problems[name] = f"expected floating-point numbers, found {entry.dtype}"
    return dict(sorted(problems.items()))


def _mismatch_message(
    path: Path,
    expected: Mapping[str, Sequence[int]],
    found: Mapping[str, Entry],
    problems: Mapping[str, str],
) -> str:
    shapes = {name: entry.shape for name, entry in found.items()}
    modules = _to_keep(expected, problems)
    advice = f"; `keep` would let {modules} keep the model's values" if modules else ""
    return (
        f"{path} does not fit the model, {len(problems)} of the entries differ: the file is of "
        f"{architecture(shapes)}, and the model is {architecture(expected)}{advice}"
        f". {listed([f'{name}: {problem}' for name, problem in problems.items()])}"
    )


def _to_keep(expected: Mapping[str, Any], problems: Mapping[str, str]) -> list[str]:
    """Returns submodules without which a file would match; none if few entries match.

    All their entries must differ.
    """
    fitting = expected.keys() - problems.keys()
    if len(fitting) < len(expected) / 2:
        return []
    left, chosen = {*problems}, []
    candidates = {part for name in problems if name in expected for part in _parts(name)}
    candidates = {part for part in candidates if not any(_is_in(name, [part]) for name in fitting)}
    while left:
        # The longest run of entries; among equal ones the shortest and then the first name.
        holds = {part: sum(_is_in(name, [part]) for name in left) for part in candidates}
        best = max(sorted(holds), key=lambda part: (holds[part], -len(part)), default="")
        if not holds.get(best):
            return []  # the file has unexpected entries
        chosen.append(best)
        left = {name for name in left if not _is_in(name, [best])}
    return sorted(chosen)


def _parts(name: str) -> Iterator[str]:
    """Yields all runs of submodules in a name: ``a``, ``b``, ``a.b`` of ``a.b.weight``."""
    modules = name.split(".")[:-1]
    for start in range(len(modules)):
        for end in range(start, len(modules)):
            if not modules[start].isdigit():
                yield ".".join(modules[start : end + 1])


def _check_kept(keep: Collection[str], names: Collection[str]) -> None:
    unknown = [kept for kept in keep if not any(_is_in(name, [kept]) for name in names)]
    if unknown:
        parts = {part for name in names for part in name.split(".")[:-1] if not part.isdigit()}
        raise WeightsError(
            f"keep must hold submodules that have variables, made of {sorted(parts)}, such as "
            f"'layer1.0.conv1'; got {unknown}"
        )


def _is_in(name: str, modules: Collection[str]) -> bool:
    """Whether an entry belongs to one of several submodules."""
    return any(f".{module}." in f".{name}" for module in modules)


def _torch_axes(leaf: Any) -> Sequence[int]:
    """Returns the axis of a Flax array for each axis of PyTorch's array."""
    return _TORCH_AXES.get(leaf.ndim, range(leaf.ndim))


def _torch_name(path: Sequence[str]) -> str:
    """Converts ``("layer1_0", "conv1", "kernel")`` to ``layer1.0.conv1.weight``."""
    return ".".join(_TORCH_NAMES.get(part, _BLOCK.sub(r"\1.\2", part)) for part in path)


def _without_prefix(entries: dict[str, Entry], modules: Collection[str]) -> dict[str, Entry]:
    """Removes a prefix that wrappers such as ``DataParallel`` add to all names."""
    names = {name: name for name in entries}
    while names:
        first = {name.partition(".")[0] for name in names.values()}
        if first & set(modules):
            return {names[name]: entry for name, entry in entries.items()}
        if len(first) > 1 or not all("." in name for name in names.values()):
            break
        names = {name: rest.partition(".")[2] for name, rest in names.items()}
    return entries
