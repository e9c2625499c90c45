import dataclasses

import jax
import numpy as np
import pytest

from experiments.detection.losses import make_loss_function
from experiments.detection.model.config import DetectorConfig
from experiments.detection.model.detector import Detector, is_frozen
from experiments.models.fpn_config import FPNConfig
from experiments.models.resnet_config import ResNetConfig
from tests.compilation import jit
from tests.experiments.detection.losses.batches import make_batch, make_config
from tests.experiments.detection.model.shallow import CLASSES, CONFIG, random_variables


@pytest.mark.slow
def test_only_trained_parameters_have_gradients():
    model_config = DetectorConfig(
        backbone=ResNetConfig(18, norm="batch", width=2),
        frozen_stages=2,
        neck=FPNConfig(channels=4),
        anchors=CONFIG.anchors,
        training_proposals=CONFIG.training_proposals,
        box=dataclasses.replace(CONFIG.box, class_agnostic=True),
        masks=True,
        mask=CONFIG.mask,
    )
    model = Detector(model_config, CLASSES)
    variables = random_variables(model)
    function = make_loss_function(model, make_config(model_config))

    @jit
    def gradients(params, state, batch):
        def total(params):
            sums = function(params, state, batch, jax.random.key(0))
            return sums.loss, sums

        return jax.grad(total, has_aux=True)(params)

    before = {"batch_stats": variables["batch_stats"]}
    gradient, sums = gradients(variables["params"], before, make_batch(5, 8, crowds=1))
    assert np.isfinite(sums.loss)
    frozen = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        names = [key.key for key in path]
        assert np.isfinite(leaf).all(), names
        assert np.asarray(leaf).any() != is_frozen(names, model_config), names
        frozen.append(is_frozen(names, model_config))
    assert any(frozen)
    # Only the averages of trained norms have changed.
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), sums.model_state, before)
    for path, moved in jax.tree_util.tree_leaves_with_path(changed["batch_stats"]):
        names = [key.key for key in path]
        assert moved != is_frozen(names, model_config), names
