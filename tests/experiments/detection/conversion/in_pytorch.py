"""Networks of PyTorch with random weights, and the same networks here."""

import functools
import importlib

import jax
import numpy as np

from experiments.detection.conversion.conversion import run_config
from experiments.detection.conversion.layouts import layout
from experiments.detection.conversion.recognition import recognise
from experiments.detection.task import make_model
from experiments.weights.loading import file_shapes, load
from tests.experiments.detection.conversion.networks import shapes


def torch():
    return importlib.import_module("torch")


def mmdet_twins():
    return importlib.import_module("tests.experiments.detection.conversion.mmdet_twins")


def detectron2_twins():
    return importlib.import_module("tests.experiments.detection.conversion.detectron2_twins")


def randomise_norms(model):
    """Gives normalisations random statistics and parameters, so that none is the identity."""
    init = torch().nn.init
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            with torch().no_grad():
                init.uniform_(module.weight, 0.3, 0.9)
                init.normal_(module.bias, 0, 0.3)
                init.normal_(module.running_mean, 0, 0.3)
                init.uniform_(module.running_var, 0.5, 2)


def scale(layer, output, deviation):
    """Scales a linear layer so that an output of it would have a standard deviation."""
    with torch().no_grad():
        layer.weight *= deviation / output.std()
        layer.bias.normal_(0, 0.1 * deviation)


def converted(model, folder, norm_epsilon=None):
    """The detector of a file with the weights of a model: the module, variables and config."""
    path = folder / "weights.safetensors"
    importlib.import_module("safetensors.torch").save_file(model.state_dict(), path)
    found = recognise(file_shapes(path))
    config = run_config(found, norm_epsilon)
    of_library = layout(found.library, config.model, found.names)
    # The module has the library's settings; the shapes of its variables do not depend on them.
    return make_model(config), load(path, shapes(found.config), of_library).variables, config


@functools.cache
def jitted(model, method):
    def apply(variables, *arguments):
        return model.apply(variables, *arguments, method=method)

    return jax.jit(apply)


def image(height, width):
    return np.random.default_rng(0).standard_normal((1, height, width, 3), np.float32)


def first(x):
    """Channels first, as a tensor."""
    return torch().from_numpy(np.moveaxis(np.asarray(x), -1, -3).copy())


def last(x):
    """Channels last, as an array."""
    return np.moveaxis(x.numpy(force=True), -3, -1)


def error(found, expected):
    """The largest difference, in standard deviations of what is expected."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / expected.std()
