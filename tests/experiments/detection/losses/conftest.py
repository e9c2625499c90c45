import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.detection.losses import make_loss_function
from experiments.models.input_config import InputConfig
from experiments.models.input_normalization import normalize
from tests.compilation import jit
from tests.experiments.detection.losses.batches import make_config
from tests.experiments.detection.model.shallow import CLASSES, CONFIG, Shallow, random_variables


@pytest.fixture(scope="package")
def detector():
    model = Shallow(CONFIG, CLASSES)
    return model, random_variables(model)["params"]


@pytest.fixture(scope="package")
def loss(detector):
    """The terms of the loss, and the gradient of their sum, for a batch; compiled once."""
    model, params = detector
    function = make_loss_function(model, make_config(CONFIG))

    @jit
    def run(batch, key):
        def total(params):
            sums = function(params, {}, batch, key)
            return sums.loss, sums

        return jax.value_and_grad(total, has_aux=True)(params)

    def losses(batch, seed=0):
        (_, sums), gradient = run(batch, jax.random.key(seed))
        return sums, gradient

    return losses


def stages_of(model, batch):
    """The network's outputs for anchors, proposals and objects, with masks of all classes."""
    pyramid = model.features(normalize(batch["image"], InputConfig(), batch["size"]))
    logits, deltas, anchors = model.score_anchors(pyramid)
    proposals, valid = model.propose(
        logits, deltas, anchors, batch["size"], model.config.training_proposals
    )
    boxes = jnp.concatenate([proposals, batch["boxes"]], axis=1)
    class_logits, box_deltas = model.classify(pyramid, boxes)
    masks = [
        model.predict_masks(pyramid, boxes, jnp.full(boxes.shape[:2], label))
        for label in range(CLASSES)
    ]
    return {
        "logits": jnp.concatenate(logits, axis=1),
        "deltas": jnp.concatenate(deltas, axis=1),
        "valid": valid,
        "boxes": boxes,
        "class_logits": class_logits,
        "box_deltas": box_deltas,
        "masks": jnp.stack(masks, axis=2),  # [B, R, K, M, M]
    }


@pytest.fixture(scope="package")
def stages(detector):
    model, params = detector
    run = jit(functools.partial(model.apply, method=stages_of))
    return lambda batch: jax.tree.map(
        lambda x: np.asarray(x, bool if x.dtype == bool else np.float64),
        run({"params": params}, batch),
    )
