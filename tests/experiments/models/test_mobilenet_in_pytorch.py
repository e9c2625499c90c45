"""Compares MobileNetV2 with torchvision's, with the same weights, on a photograph."""

import importlib

import jax
import numpy as np
import pytest

from experiments.models.mobilenet import MobileNetV2
from experiments.weights.mobilenets import load_mobilenet
from experiments.weights.public_file import pretrained_mobilenet
from tests.experiments.models.photographs import central_crops

# Blocks of torchvision's `features` whose outputs are C2, C3, C4 and C5.
BLOCKS = (3, 6, 13, 17)


@pytest.fixture(scope="module")
def reference():
    torch = importlib.import_module("torch")
    model = importlib.import_module("torchvision.models").mobilenet_v2(weights=None)
    model.load_state_dict(torch.load(pretrained_mobilenet(), weights_only=True))
    return model.eval()


@pytest.mark.torch
@pytest.mark.parametrize("rows", [224, 187])
@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_maps_and_logits_equal_torchvisions(name, rows, reference):
    torch = importlib.import_module("torch")
    x = central_crops(name)[:, :rows]
    model = MobileNetV2()
    variables = load_mobilenet(
        pretrained_mobilenet(), jax.eval_shape(model.init, jax.random.key(0), x)
    )
    found = jax.jit(lambda v, x: (*model.apply(v, x, method="features"), model.apply(v, x)))
    expected = {}
    hooks = [
        reference.features[index].register_forward_hook(
            lambda module, inputs, y, index=index: expected.update({index: y})
        )
        for index in BLOCKS
    ]
    with torch.no_grad():
        logits = reference(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    for hook in hooks:
        hook.remove()
    maps = [expected[index].numpy().transpose(0, 2, 3, 1) for index in BLOCKS]
    for ours, theirs in zip(found(variables, x), [*maps, logits], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-5 * theirs.std())
