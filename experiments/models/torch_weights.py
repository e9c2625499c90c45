"""Weights of ResNets that were trained in PyTorch, for the models of :mod:`.resnet`.

torchvision and timm give the weights of a plain ResNet the same names and shapes. Running
statistics are taken as they are. They differ in training: PyTorch adds a batch's unbiased variance
(divided by ``n - 1``, with ``n`` values a channel) to the running one, Flax the biased one (divided
by ``n``); both normalise the batch itself by the biased one.
"""

import pickle
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp  # also registers NumPy's bfloat16, which safetensors needs
import numpy as np
from jaxtyping import Array, Float, PyTree
from safetensors import SafetensorError, safe_open

from experiments.engine.errors import UserError

_BLOCK = re.compile(r"(layer\d)_(\d+)")
_TORCH_NAMES = {
    "downsample_conv": "downsample.0",
    "downsample_bn": "downsample.1",
    "kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
# By rank, the axis of a Flax array that each axis of PyTorch's is: HWIO to OIHW, [in, out] to
# [out, in].
_TORCH_AXES = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
_CLASSIFIER = "fc"
_COUNTER = "num_batches_tracked"  # serves BatchNorm without a momentum, which no ResNet has
_WAY_OUT = (
    "`safetensors.torch.save_file(state_dict, 'weights.safetensors')`, run where it is installed, "
    "writes a file that is read without"
)
_FLOATING = ("F64", "F32", "F16", "BF16")


class WeightsError(UserError, ValueError):
    """A file of weights is damaged, unsafe to read, or of another model."""


def load_torch_resnet(
    path: Path,
    variables: PyTree[Float[Array, "..."]],
    keep: Collection[str] = (),
) -> PyTree[Float[Array, "..."]]:
    """Reads the ``state_dict`` of a torchvision or timm ResNet into the variables of our own.

    Convolutions ``[O, I, H, W]`` become ``[H, W, I, O]``, the classifier ``[out, in]`` becomes
    ``[in, out]``. A ``state_dict`` may lie under ``"state_dict"`` or ``"model"`` of a checkpoint,
    and its names may share a prefix such as ``module.``. Without a classifier in the model, the
    file's is left out. All else must fit one to one, but for what ``keep`` names::

        # CARAFE++ in place of strided convolutions: the new layers start from their own values
        load_torch_resnet(path, variables, keep=("pool", "resample", "downsample_resample"))
        # LIP, which also has 1x1 in place of some 3x3 convolutions
        blocks = ("layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2")
        new = ("pool", "resample_trunk", "resample", "downsample_resample")
        load_torch_resnet(path, variables, keep=(*new, *blocks))
        # another number of classes
        load_torch_resnet(path, variables, keep=("fc",))

    Args:
        path: a ``.safetensors`` file; or a ``.pth`` or ``.pt`` file, which takes PyTorch 2.6, in
            older ones of which pickled code could run. Only tensors are unpickled.
        variables: of the model, with ``"params"`` and ``"batch_stats"``; gives structure, shapes
            and dtypes: half precision in the file is converted to the model's float32.
        keep: submodules that keep their values of ``variables``, by PyTorch's names, whole or in
            part: ``"conv2"`` is that of every block. What the file has for them is left out.

    Returns:
        Variables like ``variables``, complete.

    Raises:
        WeightsError: the file is damaged, holds what is not safe to unpickle or no ``state_dict``,
            or does not fit; then every entry that is missing, unexpected or of another shape is
            named.
        ValueError: the file is of another kind, or a name in ``keep`` fits no submodule.
        ImportError: ``path`` is a ``.pth`` or ``.pt`` file, and PyTorch is not installed or old.
        OSError: the file cannot be read.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(variables)
    names = [_torch_name([key.key for key in keys[1:]]) for keys, _ in leaves]
    _check_kept(keep, names)
    modules = {name.partition(".")[0] for name in names}
    found = _without_prefix(_read(path), modules)
    found = {name: found[name] for name in found if not _is_in(name, keep)}
    if _CLASSIFIER not in modules:
        found = {name: found[name] for name in found if not name.startswith(f"{_CLASSIFIER}.")}
    loaded, problems = [], []
    for name, (_, leaf) in zip(names, leaves, strict=True):
        value = found.pop(name, None)
        axes = _TORCH_AXES.get(leaf.ndim, range(leaf.ndim))
        expected = [leaf.shape[axis] for axis in axes]
        if _is_in(name, keep):
            loaded.append(leaf)
        elif value is None:
            problems.append(f"{name}: expected {expected}, found nothing")
        elif list(value.shape) != expected:
            problems.append(f"{name}: expected {expected}, found {list(value.shape)}")
        else:
            loaded.append(jnp.asarray(value.transpose(np.argsort(axes)), leaf.dtype))
    problems += [f"{name}: expected nothing, found {list(found[name].shape)}" for name in found]
    if problems:
        raise WeightsError(
            f"{path} does not fit the model, {len(problems)} of the entries differ; submodules "
            "named in `keep` would keep the model's values:\n  " + "\n  ".join(sorted(problems))
        )
    return jax.tree.unflatten(structure, loaded)


def _check_kept(keep: Collection[str], names: Collection[str]) -> None:
    unknown = [kept for kept in keep if not any(_is_in(name, [kept]) for name in names)]
    if unknown:
        parts = {part for name in names for part in name.split(".")[:-1] if not part.isdigit()}
        raise ValueError(
            f"keep must hold submodules that have variables, made of {sorted(parts)}, such as "
            f"'layer1.0.conv1'; got {unknown}"
        )


def _is_in(name: str, modules: Collection[str]) -> bool:
    """Whether an entry belongs to one of some submodules."""
    return any(f".{module}." in f".{name}" for module in modules)


def _torch_name(path: Sequence[str]) -> str:
    """``("layer1_0", "conv1", "kernel")`` is ``layer1.0.conv1.weight``."""
    return ".".join(_TORCH_NAMES.get(part, _BLOCK.sub(r"\1.\2", part)) for part in path)


def _without_prefix(
    entries: dict[str, np.ndarray], modules: Collection[str]
) -> dict[str, np.ndarray]:
    """Takes off what wrappers such as ``DataParallel`` put before every name."""
    while True:
        first = {name.partition(".")[0] for name in entries}
        if len(first) != 1 or first <= set(modules) or not all("." in name for name in entries):
            return entries
        entries = {name.partition(".")[2]: value for name, value in entries.items()}


def _read(path: Path) -> dict[str, np.ndarray]:
    """The file's floating-point tensors, by name."""
    match path.suffix:
        case ".safetensors":
            return _read_safetensors(path)
        case ".pth" | ".pt":
            return _read_pickle(path)
    raise ValueError(f"path must end in .safetensors, .pth or .pt, got {path}")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    entries = {}
    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 (the file is no mapping)
                if name.endswith(_COUNTER):
                    continue
                dtype = file.get_slice(name).get_dtype()
                if dtype not in _FLOATING:
                    raise _not_floating(path, name, dtype)
                entries[name] = file.get_tensor(name)
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged, or no safetensors file: {error}") from error
    return entries


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"reading {path} takes PyTorch, which is missing; {_WAY_OUT}") from error
    if torch.__version__ < (2, 6):
        raise ImportError(
            f"reading {path} takes PyTorch 2.6 or newer, as pickled code can run in version "
            f"{torch.__version__}; {_WAY_OUT}"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors, or is damaged: PyTorch does not unpickle it as "
            "weights only. If you trust it, save its state_dict alone"
        ) from error
    except OSError:
        raise
    except Exception as error:  # altered bytes make PyTorch raise errors of ten kinds
        raise WeightsError(f"{path} is damaged, or no file of torch.save: {error}") from error
    entries = {}
    for name, tensor in _state_dict(path, content).items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise _no_state_dict(path, f"{name!r} of type {type(tensor).__name__}")
        if name.endswith(_COUNTER):
            continue
        if not tensor.is_floating_point():
            raise _not_floating(path, name, tensor.dtype)
        entries[name] = tensor.detach().to(torch.float32).numpy()  # NumPy takes no bfloat16 of it
    return entries


def _state_dict(path: Path, content: Any) -> Mapping[str, Any]:
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise _no_state_dict(path, type(content).__name__)
    return content


def _no_state_dict(path: Path, found: str) -> WeightsError:
    return WeightsError(
        f"{path} must hold a state_dict, tensors by name, alone or under 'state_dict' or 'model'; "
        f"got {found}"
    )


def _not_floating(path: Path, name: str, dtype: object) -> WeightsError:
    return WeightsError(f"{path}: {name} must be of a floating-point dtype, got {dtype}")
