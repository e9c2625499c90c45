"""Model, loss, training and evaluation of the classification task (section 5.1)."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Num, UInt8

from experiments.classification.batches import (
    ClassificationData,
    evaluation_batches,
    open_data,
    training_batches,
)
from experiments.classification.configs import ClassificationConfig
from experiments.data.classes import num_classes
from experiments.engine import optimization, step
from experiments.engine.distributed import primary_first
from experiments.engine.evaluation import COUNT, Evaluator, weighted_sum
from experiments.engine.folders import Folders
from experiments.engine.loop import Task, train
from experiments.engine.parallel import AXIS, check_batch_size
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
from experiments.models.input_normalization import normalize
from experiments.models.resnet import ResNet

CLASSES = "classes.json"


def make_model(config: ClassificationConfig) -> ResNet:
    """Returns the network of a config; synchronised BatchNorm uses the mapped axis."""
    return ResNet(
        config.model,
        num_classes=num_classes(config.data.source),
        dtype=jnp.dtype(config.dtype),
        axis_name=AXIS if config.model.norm == "sync_batch" else None,
    )


def initial_variables(config: ClassificationConfig) -> Any:
    """Draws parameters and batch statistics at step 0, which depend only on the config."""
    side = config.data.image_side
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return draw_variables(make_model(config), initial_key(config.training.seed), image)


def training_state(config: ClassificationConfig, variables: Any) -> State:
    """Returns the state of a run that starts from ``variables``.

    ``model_state`` holds the batch statistics, which evaluation and prediction need too.
    """
    # The number of steps does not matter here, because the learning rate is not in the state.
    optimizer, _ = make_optimizer(config, steps_per_epoch=1000)
    return step.initial_state(variables["params"], variables["batch_stats"], optimizer)


def initial_state(config: ClassificationConfig) -> State:
    """Returns the state of a run at step 0."""
    return training_state(config, initial_variables(config))


RUNS = RunType(ClassificationConfig, initial_state, best="top1")


def make_optimizer(
    config: ClassificationConfig, steps_per_epoch: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Returns the optimiser of a config, and its learning rate."""
    training = config.training
    rate = optimization.learning_rate(
        training.optimizer, training.schedule, training.batch_size, steps_per_epoch
    )
    return optimization.make_optimizer(training.optimizer, rate), rate


def classify(
    model: ResNet, state: State, image: UInt8[Array, "batch side side 3"]
) -> Float[Array, "batch classes"]:
    """Computes the logits of images of bytes, with running averages."""
    variables = {"params": state["params"], "batch_stats": state["model_state"]}
    return model.apply(variables, normalize(image, model.config.input))


def loss_function(
    model: ResNet, params: Any, model_state: Any, batch: dict[str, jax.Array], key: jax.Array
) -> LossSums:
    """Computes the cross-entropy, in nats; the metric ``top1`` is for the training batch."""
    del key
    logits, collections = model.apply(
        {"params": params, "batch_stats": model_state},
        normalize(batch["image"], model.config.input),
        train=True,
        mutable=["batch_stats"],
    )
    label = batch["label"]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, label).sum()
    correct = (logits.argmax(-1) == label).sum().astype(jnp.float32)
    return LossSums(loss, jnp.float32(label.size), {"top1": correct}, collections["batch_stats"])


def train_step(config: ClassificationConfig, steps_per_epoch: int) -> TaskStep:
    """Returns the training step; see :func:`experiments.engine.step.supervised_step`."""
    optimizer, rate = make_optimizer(config, steps_per_epoch)
    loss = functools.partial(loss_function, make_model(config))
    return supervised_step(loss, optimizer, rate, config.training.accumulation)


def image_metrics(
    model: ResNet, state: State, batch: dict[str, jax.Array]
) -> dict[str, Num[Array, " batch"] | Bool[Array, " batch"]]:
    """Computes top-1 and top-5 accuracy and the loss of each image of a batch."""
    logits, label = classify(model, state, batch["image"]), batch["label"]
    _, five = jax.lax.top_k(logits, 5)  # [B, 5]
    right = five == label[:, None]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return {
        "top1": right[:, 0],
        "top5": right.any(axis=1),
        # A single logit of minus infinity leaves the loss finite.
        "loss": jnp.where(jnp.isfinite(logits).all(axis=1), loss, jnp.nan),
    }


def make_evaluator(
    config: ClassificationConfig, data: ClassificationData, evaluation: EvaluationConfig
) -> Evaluator:
    """Returns the evaluator of top-1 and top-5 accuracy, in [0, 1], and of the loss."""
    sums = evaluation_sums(make_model(config))
    batches = evaluation_batches(data, config.data, evaluation.batch_size)
    return Evaluator(sums, batches, evaluation.workers, evaluation.max_unreadable_records)


def evaluation_sums(
    model: ResNet,
) -> Callable[[State, dict[str, jax.Array]], dict[str, jax.Array]]:
    """Returns the function of the sums of an :class:`experiments.engine.evaluation.Evaluator`."""

    def sums(state: State, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        found = image_metrics(model, state, batch)
        found[COUNT] = jnp.ones_like(batch["weight"])
        return {name: weighted_sum(value, batch["weight"]) for name, value in found.items()}

    return sums


def train_run(
    config: ClassificationConfig, folder: Path, folders: Folders, operation: Operation
) -> State:
    """Trains a run in ``folder``, or continues it; see :func:`experiments.engine.loop.train`.

    Args:
        config: config of the run.
        folder: folder of the run.
        folders: folders of data.
        operation: settings of logging, checkpoints and evaluation of the run.
    """
    training = config.training
    check_batch_size(training.batch_size, training.accumulation)
    data = primary_first(lambda: open_data(config.data, folders))
    steps_per_epoch = max(1, len(data.train) // training.batch_size)
    task = Task(
        state=initial_state(config),
        step=train_step(config, steps_per_epoch),
        dataset=training_batches(data, config.data, training.batch_size, training.seed),
        steps=training.schedule.steps(training.schedule.length, steps_per_epoch),
        evaluate=make_evaluator(config, data, evaluation_in_training(training, operation)),
        best=RUNS.best,
        files={CLASSES: list(data.class_names)},
    )
    return train(folder, config, training, task, operation)
