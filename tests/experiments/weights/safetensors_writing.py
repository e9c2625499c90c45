"""A writer of weights that only writes safetensors."""

import sys
import types

import numpy as np
from safetensors.numpy import save_file


def write_weights(path, arrays):
    save_file({name: np.array(array, order="C") for name, array in arrays.items()}, path)


def use(monkeypatch):
    """Replaces the module of the writers."""
    module = types.ModuleType("experiments.weights.writing")
    module.write_weights = write_weights
    monkeypatch.setitem(sys.modules, module.__name__, module)
