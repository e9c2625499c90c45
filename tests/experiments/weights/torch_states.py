"""Networks of a few channels, and their state_dicts in PyTorch's format."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.models.resnet import ResNet
from experiments.models.resnet_config import ResNetConfig

WIDTH = 4
CLASSES = 5


def small(num_classes=CLASSES, **config):
    return ResNet(ResNetConfig(**{"depth": 18, "width": WIDTH} | config), num_classes)


@functools.cache
def shapes(model):
    method = "__call__" if model.num_classes else "features"
    init = functools.partial(model.init, method=method)
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def unset(model):
    """Returns variables of the model, all NaN."""
    return jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, leaf.dtype), shapes(model))


# Features and kernel sizes of the convolutions in a stem.
CONV7 = ((WIDTH, 7),)
DEEP = ((WIDTH, 3), (WIDTH, 3), (2 * WIDTH, 3))


def random_state(bottlenecks=False, blocks=(2, 2, 2, 2), stem=CONV7):
    """Returns a random state_dict with torchvision's names and shapes, of width ``WIDTH``."""
    shapes, norms, channels = {"fc.bias": (CLASSES,)}, {}, 3
    for index, (features, size) in enumerate(stem, start=1):
        shapes[f"conv{index}.weight"] = (features, channels, size, size)
        norms[f"bn{index}"] = channels = features
    for stage, count in enumerate(blocks, start=1):
        features = WIDTH * 2 ** (stage - 1)
        out = 4 * features if bottlenecks else features
        for block in range(count):
            name = f"layer{stage}.{block}"
            if bottlenecks:
                shapes[f"{name}.conv1.weight"] = (features, channels, 1, 1)
                shapes[f"{name}.conv2.weight"] = (features, features, 3, 3)
                shapes[f"{name}.conv3.weight"] = (out, features, 1, 1)
                norms[f"{name}.bn3"] = out
            else:
                shapes[f"{name}.conv1.weight"] = (features, channels, 3, 3)
                shapes[f"{name}.conv2.weight"] = (features, features, 3, 3)
            norms[f"{name}.bn1"] = norms[f"{name}.bn2"] = features
            if block == 0 and channels != out:
                shapes[f"{name}.downsample.0.weight"] = (out, channels, 1, 1)
                norms[f"{name}.downsample.1"] = out
            channels = out
    shapes["fc.weight"] = (CLASSES, channels)
    for name, features in norms.items():
        for entry in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{entry}"] = (features,)
    rng = np.random.default_rng(0)
    state = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    state |= {name: np.abs(value) for name, value in state.items() if name.endswith("running_var")}
    return state | {f"{name}.num_batches_tracked": np.full((), 7) for name in norms}


def assert_equal(tree, expected):
    jax.tree.map(np.testing.assert_array_equal, tree, expected)
