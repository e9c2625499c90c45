"""Model, loss, training step and evaluation of the inpainting task."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from experiments.engine import optimization, steps
from experiments.engine.evaluation import COUNT, Evaluator
from experiments.engine.guard import TaskStep
from experiments.engine.loop import train
from experiments.engine.optimization import learning_rate
from experiments.engine.parallel import check_batch_size
from experiments.engine.settings import Operation, TrainingConfig
from experiments.engine.stepping import Task
from experiments.engine.steps import Sums, supervised_step
from experiments.inpainting.batches import Batch, evaluation_batches, training_batches
from experiments.inpainting.configs import InpaintingConfig
from experiments.inpainting.metrics import image_metrics
from experiments.models.unet import UNet

State = dict[str, Any]


def compose(
    image: Float[Array, "batch height width 3"],
    mask: Float[Array, "batch height width 1"],
    prediction: Float[Array, "batch height width 3"],
) -> Float[Array, "batch height width 3"]:
    """``y = (1 - M) x + M y_hat`` (section 5.1): what is seen stays as it is."""
    return (1 - mask) * image + mask * prediction


def fill(
    model: UNet,
    params: Any,
    image: Float[Array, "batch height width 3"],
    mask: Float[Array, "batch height width 1"],
    **apply_options: Any,
) -> Any:
    """Fills the holes of images in [-1, 1]; what ``image`` holds in the hole has no influence.

    Args:
        model: network with 4 input and 3 output channels.
        params: its parameters.
        image: ``[B, H, W, 3]``.
        mask: ``[B, H, W, 1]``, 1 in the hole.
        apply_options: for ``model.apply``; with ``mutable``, the collections are returned too.

    Returns:
        The composed image, in [-1, 1]; a pair of it and the collections with ``mutable``.
    """
    inputs = jnp.concatenate([(1 - mask) * image, mask], axis=-1)
    result = model.apply({"params": params}, inputs, **apply_options)
    if "mutable" in apply_options:
        prediction, collections = result
        return compose(image, mask, jnp.tanh(prediction)), collections
    return compose(image, mask, jnp.tanh(result))


def make_model(config: InpaintingConfig) -> UNet:
    """The network of a config."""
    return UNet(config.model, features=3)


def make_optimizer(config: TrainingConfig) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimiser of a config, and its learning rate."""
    rate = learning_rate(config.optimizer, config.schedule, config.batch_size, steps_per_epoch=1)
    return optimization.make_optimizer(config.optimizer, rate), rate


def initial_state(config: InpaintingConfig) -> State:
    """Parameters and optimiser state at step 0; depends on the config alone."""
    side = config.data.crop_side
    key = jax.random.key(config.training.seed)
    params = make_model(config).init(key, jnp.zeros((1, side, side, 4)))["params"]
    return steps.initial_state(params, {}, make_optimizer(config.training)[0])


def count_parameters(params: Any) -> int:
    """Number of scalars in a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def loss_function(
    model: UNet, params: Any, model_state: Any, batch: dict[str, jax.Array], key: jax.Array
) -> Sums:
    """The absolute error over the pixels of all holes, and their number."""
    del key
    filled = fill(model, params, batch["image"], batch["mask"])
    error = jnp.abs(filled - batch["image"]).sum()  # nothing outside the holes differs
    return Sums(error, 3 * batch["mask"].sum(), {}, model_state)


def train_step(config: InpaintingConfig) -> TaskStep:
    """The training step of a config; see :func:`experiments.engine.steps.supervised_step`."""
    optimizer, rate = make_optimizer(config.training)
    loss = functools.partial(loss_function, make_model(config))
    return supervised_step(loss, optimizer, rate, config.training.accumulation)


def train_run(
    config: InpaintingConfig, folder: Path, data_folder: Path, operation: Operation
) -> State:
    """Trains a run in ``folder``, or goes on with it; see :func:`experiments.engine.loop.train`."""
    training = config.training
    check_batch_size(training.batch_size, training.accumulation)
    task = Task(
        state=initial_state(config),
        step=train_step(config),
        dataset=training_batches(data_folder, config.data, training.batch_size, training.seed),
        steps=training.schedule.steps(training.schedule.length, steps_per_epoch=1),
    )
    return train(folder, config, training, task, operation)


def evaluate(config: InpaintingConfig, params: Any, examples: list[Batch]) -> dict[str, float]:
    """Mean of each of :func:`image_metrics` over the examples, every one counted once."""
    model = make_model(config)

    def sums(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        filled = fill(model, params, batch["image"], batch["mask"])
        # A blank image that fills up a batch has no hole, and so no PSNR there.
        mask = jnp.where(batch["weight"][:, None, None, None] > 0, batch["mask"], 1.0)
        metrics = image_metrics(filled, batch["image"], mask)
        weighted = {name: (values * batch["weight"]).sum() for name, values in metrics.items()}
        return {**weighted, COUNT: batch["weight"].sum()}

    return Evaluator(sums, evaluation_batches(examples, config.training.batch_size))(params)
