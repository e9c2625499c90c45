"""Loads PyTorch on the device that JAX uses. PyTorch is imported only when needed."""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.benchmarks.machine import cores

DEVICES = {"cpu": "cpu", "gpu": "cuda"}  # PyTorch's device by JAX's platform


def load(platform: str) -> Any | None:
    """Loads the module ``torch`` and gives it as many threads as JAX has.

    Args:
        platform: name of the JAX platform.

    Returns:
        The module; ``None`` if PyTorch is not installed or does not support the platform.
    """
    if platform not in DEVICES or importlib.util.find_spec("torch") is None:
        return None
    torch: Any = importlib.import_module("torch")
    if platform == "gpu" and not torch.cuda.is_available():
        return None
    torch.set_num_threads(cores())
    return torch


def load_torchvision() -> Any | None:
    """The module ``torchvision`` with its models, or ``None`` if it is not installed."""
    if importlib.util.find_spec("torchvision") is None:
        return None
    importlib.import_module("torchvision.models.detection")
    return importlib.import_module("torchvision")


def can_compile(torch: Any, platform: str) -> bool:
    """Whether ``torch.compile`` finds the compiler that it needs; on a CPU a C++ compiler."""
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
    """Copies a JAX array to PyTorch, in its dtype and on the device for JAX's platform."""
    array = np.asarray(array)
    # PyTorch does not know NumPy's bfloat16.
    exact = array.astype(np.float32) if array.dtype.name == "bfloat16" else array.copy()
    return torch.from_numpy(exact).to(DEVICES[platform], getattr(torch, array.dtype.name))


def waiting(torch: Any, function: Callable[[], object], platform: str) -> Callable[[], object]:
    """Wraps a function so that it waits for its results on the device."""

    def run() -> object:
        results = function()
        if platform == "gpu":
            torch.cuda.synchronize()
        return results

    return run


def version(torch: Any | None) -> str:
    """PyTorch's version for the line above a table, from the result of :func:`load`."""
    if torch is None:
        return "no PyTorch for this device: its times are left out"
    return f"PyTorch {torch.__version__}"
