"""Model, loss, training step and evaluation of the inpainting task."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from experiments.engine.loop import Schedule, train
from experiments.engine.parallel import AXIS, data_parallel
from experiments.inpainting.batches import Batch, padded_batches, training_batches
from experiments.inpainting.configs import InpaintingConfig, TrainingConfig
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


def make_optimizer(config: TrainingConfig) -> optax.GradientTransformation:
    """Adam with linear warm-up and cosine decay."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.warmup_steps, config.steps
    )
    return optax.adam(rate, b1=config.b1, b2=config.b2)


def initial_state(config: InpaintingConfig) -> State:
    """Parameters and optimiser state at step 0; depends on the config alone."""
    side = config.data.crop_side
    key = jax.random.key(config.training.seed)
    params = make_model(config).init(key, jnp.zeros((1, side, side, 4)))["params"]
    return {"params": params, "optimizer": make_optimizer(config.training).init(params)}


def count_parameters(params: Any) -> int:
    """Number of scalars in a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def train_step(
    model: UNet, optimizer: optax.GradientTransformation, state: State, batch: dict[str, jax.Array]
) -> tuple[State, dict[str, jax.Array]]:
    """One step on one device's share of a batch, under a mapped axis :data:`AXIS`.

    The loss is the mean absolute error over the pixels of all holes of the whole batch.
    """
    hole = jax.lax.psum(3 * batch["mask"].sum(), AXIS)

    def loss_of_share(params: Any) -> jax.Array:
        filled = fill(model, params, batch["image"], batch["mask"])
        return jnp.abs(filled - batch["image"]).sum() / hole

    loss, gradients = jax.value_and_grad(loss_of_share)(state["params"])
    loss, gradients = jax.lax.psum((loss, gradients), AXIS)
    updates, optimizer_state = optimizer.update(gradients, state["optimizer"])
    params = optax.apply_updates(state["params"], updates)
    return {"params": params, "optimizer": optimizer_state}, {"loss": loss}


def train_run(config: InpaintingConfig, folder: Path, data_folder: Path) -> State:
    """Trains a run in ``folder``, or goes on with it; see :func:`experiments.engine.loop.train`."""
    training = config.training
    step = functools.partial(train_step, make_model(config), make_optimizer(training))
    return train(
        folder,
        config,
        Schedule(training.steps, training.checkpoint_every),
        initial_state(config),
        step,
        training_batches(data_folder, config.data, training.batch_size, training.seed),
    )


def evaluate(config: InpaintingConfig, params: Any, examples: list[Batch]) -> dict[str, float]:
    """Mean of each of :func:`image_metrics` over the examples, every one counted once."""
    model = make_model(config)

    def step(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        filled = fill(model, params, batch["image"], batch["mask"])
        metrics = image_metrics(filled, batch["image"], batch["mask"])
        metrics["count"] = jnp.ones_like(batch["weight"])
        sums = {name: (values * batch["weight"]).sum() for name, values in metrics.items()}
        return jax.lax.psum(sums, AXIS)

    parallel_step = data_parallel(step)
    totals: dict[str, float] = {}
    for batch in padded_batches(examples, config.training.batch_size):
        for name, value in parallel_step(params, batch).items():
            totals[name] = totals.get(name, 0.0) + float(np.asarray(value))
    count = totals.pop("count")
    return {name: total / count for name, total in totals.items()}
