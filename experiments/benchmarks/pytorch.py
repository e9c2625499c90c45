"""PyTorch beside JAX, on the same device; it is loaded when it is asked for."""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.benchmarks.machine import cores

DEVICES = {"cpu": "cpu", "gpu": "cuda"}  # by platform of JAX


def load(platform: str) -> Any | None:
    """The module ``torch``, with as many threads as JAX has.

    Args:
        platform: of JAX.

    Returns:
        ``None`` where PyTorch is not installed, or does not compute on such devices.
    """
    if platform not in DEVICES or importlib.util.find_spec("torch") is None:
        return None
    torch: Any = importlib.import_module("torch")
    if platform == "gpu" and not torch.cuda.is_available():
        return None
    torch.set_num_threads(cores())
    return torch


def load_torchvision() -> Any | None:
    """The module ``torchvision`` with its models, or ``None`` where it is not installed."""
    if importlib.util.find_spec("torchvision") is None:
        return None
    importlib.import_module("torchvision.models.detection")
    return importlib.import_module("torchvision")


def can_compile(torch: Any, platform: str) -> bool:
    """Whether ``torch.compile`` has the compiler that it needs: on a CPU one of C++."""
    if platform != "cpu":
        return True
    builder: Any = importlib.import_module("torch._inductor.cpp_builder")
    errors: Any = importlib.import_module("torch._inductor.exc")
    try:
        builder.get_cpp_compiler()
    except errors.InvalidCxxCompiler:
        return False
    return True


def tensor(torch: Any, array: npt.ArrayLike, platform: str) -> Any:
    """An array of JAX in its dtype, on the device of PyTorch beside that platform of JAX."""
    array = np.asarray(array)
    # NumPy's bfloat16 is unknown to PyTorch.
    exact = array.astype(np.float32) if array.dtype.name == "bfloat16" else array.copy()
    return torch.from_numpy(exact).to(DEVICES[platform], getattr(torch, array.dtype.name))


def waiting(torch: Any, function: Callable[[], object], platform: str) -> Callable[[], object]:
    """A call that returns when its results are there."""

    def run() -> object:
        results = function()
        if platform == "gpu":
            torch.cuda.synchronize()
        return results

    return run


def version(torch: Any | None) -> str:
    """A part of the line above a table, for what :func:`load` has given."""
    if torch is None:
        return "no PyTorch for this device: its times are left out"
    return f"PyTorch {torch.__version__}"
