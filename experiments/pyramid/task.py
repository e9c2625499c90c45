"""Network, loss, training and evaluation of the pyramid task."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from experiments.data.classes import num_classes
from experiments.engine import optimization, step
from experiments.engine.distributed import is_primary, primary_first
from experiments.engine.folders import Folders
from experiments.engine.loop import Task, train
from experiments.engine.parallel import check_batch_size
from experiments.engine.runs import RunType
from experiments.engine.settings import EvaluationConfig, Operation, evaluation_in_training
from experiments.engine.step import (
    LossSums,
    State,
    TaskStep,
    draw_variables,
    initial_key,
    supervised_step,
)
from experiments.pyramid.batches import evaluation_batches, training_batches
from experiments.pyramid.configs import PyramidConfig
from experiments.pyramid.evaluation import PyramidEvaluator
from experiments.pyramid.features import Features, Split, open_features
from experiments.pyramid.features_writing import map_shapes
from experiments.pyramid.network import PyramidNetwork
from experiments.resamplers.interpolation import resize
from experiments.segmentation.losses import pixel_sums

_CLASSES = "classes.json"

Maps = tuple[Float[Array, "batch _h _w _c"], ...]


def make_model(config: PyramidConfig) -> PyramidNetwork:
    """Returns the network of a config."""
    return PyramidNetwork(config.model, num_classes("label_scenes"), jnp.dtype(config.dtype))


def initial_state(config: PyramidConfig) -> State:
    """Returns the state of a run at step 0, which depends only on the config."""
    key = initial_key(config.training.seed)
    variables = draw_variables(make_model(config), key, map_shapes(1, 64, 64))
    # The number of steps does not matter here, because the learning rate is not in the state.
    optimizer, _ = make_optimizer(config, steps_per_epoch=1000)
    return step.initial_state(variables["params"], variables["batch_stats"], optimizer)


RUNS = RunType(PyramidConfig, initial_state, best="mIoU")


def make_optimizer(
    config: PyramidConfig, steps_per_epoch: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Returns the optimiser of a config, and its learning rate."""
    training = config.training
    rate = optimization.learning_rate(
        training.optimizer, training.schedule, training.batch_size, steps_per_epoch
    )
    return optimization.make_optimizer(training.optimizer, rate), rate


def predict(
    model: PyramidNetwork, state: State, maps: Maps
) -> Float[Array, "batch height width classes"]:
    """Computes logits with a stride of 4, with running averages."""
    return model.apply({"params": state["params"], "batch_stats": state["model_state"]}, maps)


def loss_function(
    model: PyramidNetwork, params: Any, model_state: Any, batch: dict[str, Any], key: jax.Array
) -> LossSums:
    """Computes the cross-entropy of the pixels of label maps, to whose size logits are resized.

    Its metric is ``accuracy``, the number of pixels whose class is right.

    Args:
        model: network that is trained.
        params: parameters of the network.
        model_state: batch statistics of the network.
        batch: one device's share of a batch of
            :func:`experiments.pyramid.batches.training_batches`.
        key: random key, which is not used.
    """
    del key
    logits, collections = model.apply(
        {"params": params, "batch_stats": model_state},
        batch["maps"],
        train=True,
        mutable=["batch_stats"],
    )
    label = batch["label"]
    sums = pixel_sums(resize(logits, label.shape[1:]), label)
    return LossSums(sums.loss, sums.labelled, {"accuracy": sums.right}, collections["batch_stats"])


def train_step(config: PyramidConfig, steps_per_epoch: int) -> TaskStep:
    """Returns the training step; see :func:`experiments.engine.step.supervised_step`."""
    optimizer, rate = make_optimizer(config, steps_per_epoch)
    loss = functools.partial(loss_function, make_model(config))
    return supervised_step(loss, optimizer, rate, config.training.accumulation)


def make_evaluator(
    config: PyramidConfig,
    features: Features,
    evaluation: EvaluationConfig,
    split: Split = "validation",
) -> PyramidEvaluator:
    """Returns the evaluator of a config's network on all scenes of a split.

    Args:
        config: config of the run.
        features: features of the config's scenes.
        evaluation: batch size and workers.
        split: split whose scenes are evaluated.

    Raises:
        ConfigError: the processes cannot share a batch equally.
    """
    return PyramidEvaluator(
        functools.partial(predict, make_model(config)),
        evaluation_batches(features, evaluation.batch_size, split),
        features.count(split),
        features.class_names,
        evaluation.workers,
    )


def train_run(config: PyramidConfig, folder: Path, folders: Folders, operation: Operation) -> State:
    """Trains a run in ``folder``, or continues it; see :func:`experiments.engine.loop.train`.

    Args:
        config: config of the run.
        folder: folder of the run.
        folders: folders of data.
        operation: settings of logging, checkpoints and evaluation of the run.

    Raises:
        DataError: the files from which scenes are composed are missing or damaged.
        WeightsError: the weights of the backbone are missing or damaged.
    """
    training = config.training
    check_batch_size(training.batch_size, training.accumulation)
    features = primary_first(lambda: open_features(config.scenes, folders))
    count = features.count("train")
    if is_primary():
        print(f"training images: {count}, validation images: {features.count('validation')}")
    steps_per_epoch = max(1, count // training.batch_size)
    task = Task(
        state=initial_state(config),
        step=train_step(config, steps_per_epoch),
        dataset=training_batches(features, training.batch_size, training.seed),
        steps=training.schedule.steps(training.schedule.length, steps_per_epoch),
        evaluate=make_evaluator(config, features, evaluation_in_training(training, operation)),
        best=RUNS.best,
        files={_CLASSES: list(features.class_names)},
    )
    return train(folder, config, training, task, operation)
