"""The alternating training step: the discriminator is updated first, then the generator."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.engine.step import Batch, LossSums, State, TaskStep, gradient_step
from experiments.inpainting.configs import InpaintingConfig
from experiments.inpainting.fill import compose, make_generator
from experiments.inpainting.losses import (
    discriminator_loss,
    generator_loss,
    hole_shares,
    reconstruction,
)
from experiments.inpainting.model.patchgan import PatchGAN
from experiments.inpainting.pixels import to_unit


def make_discriminator(config: InpaintingConfig) -> PatchGAN:
    """The discriminator of a config; its input is an image with its mask as fourth channel."""
    return PatchGAN(config.adversarial.discriminator, jnp.dtype(config.dtype))


def alternating_step(
    config: InpaintingConfig, optimizer: optax.GradientTransformation, rate: optax.Schedule
) -> TaskStep:
    """The training step of a config, to be mapped over the devices as one function.

    First, the discriminator takes an optimiser step on original images and on images filled by the
    current generator. Second, the generator takes an optimiser step against the new discriminator.
    Third, the average of the generator's parameters is updated. Without a discriminator, the first
    step and the adversarial loss are left out.

    Args:
        config: config of the run.
        optimizer: optimiser of both networks.
        rate: learning rate of the optimiser, reported as ``learning_rate``.

    Returns:
        ``step(state, batch, key, number)`` on the state of
        :func:`experiments.inpainting.task.initial_state`. Metrics are the generator's ``loss`` and
        its two terms ``reconstruction`` and ``adversarial``, without the weight of the second;
        ``gradient_norm``; ``discriminator_loss``, ``discriminator_gradient_norm``, and the mean
        logits ``real`` and ``fake``.
    """
    generator, discriminator = make_generator(config), make_discriminator(config)
    weight, kind = config.adversarial.weight, config.adversarial.loss
    stride = 2**config.adversarial.discriminator.layers
    accumulation = config.training.accumulation

    def generate(params: Any, model_state: Any, batch: Batch) -> Any:
        image, mask = to_unit(batch["image"]), batch["mask"].astype(jnp.float32)
        prediction, model_state = generator.apply(
            {"params": params, **model_state}, image, mask, train=True, mutable=["batch_stats"]
        )
        return image, mask, prediction, compose(image, mask, prediction), model_state

    def judge(variables: Any, image: jax.Array, mask: jax.Array, **options: Any) -> Any:
        return discriminator.apply(variables, jnp.concatenate([image, mask], axis=-1), **options)

    def discriminator_sums(
        generator_state: State, params: Any, model_state: Any, batch: Batch, key: jax.Array
    ) -> LossSums:
        del key
        image, mask, _, filled, _ = generate(
            generator_state["params"], generator_state["model_state"], batch
        )
        both = jnp.concatenate([image, filled])
        logits, model_state = judge(
            {"params": params, **model_state},
            both,
            jnp.concatenate([mask, mask]),
            update=True,
            mutable=["batch_stats"],
        )
        real, fake = jnp.split(logits, 2)
        loss = discriminator_loss(real, fake, hole_shares(mask, stride), kind)
        metrics = {"real": real.mean((1, 2)).sum(), "fake": fake.mean((1, 2)).sum()}
        return LossSums(loss.sum(), jnp.float32(len(image)), metrics, model_state)

    def generator_sums(
        discriminator_state: State | None,
        params: Any,
        model_state: Any,
        batch: Batch,
        key: jax.Array,
    ) -> LossSums:
        del key
        image, mask, prediction, filled, model_state = generate(params, model_state, batch)
        loss = reconstruction(prediction, filled, image, mask, config.reconstruction)
        metrics = {"reconstruction": loss.sum()}
        if discriminator_state is not None:
            variables = {
                "params": discriminator_state["params"],
                **discriminator_state["model_state"],
            }
            # ``update`` also advances spectral normalisation, whose kernels have just changed.
            fake, _ = judge(variables, filled, mask, update=True, mutable=["batch_stats"])
            adversarial = generator_loss(fake, hole_shares(mask, stride), kind)
            metrics["adversarial"] = adversarial.sum()
            loss += weight * adversarial
        return LossSums(loss.sum(), jnp.float32(len(image)), metrics, model_state)

    def step(
        state: State, batch: Batch, key: jax.Array, number: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        state = dict(state)
        metrics = {"learning_rate": rate(number)}
        if weight:
            sums: Callable[..., LossSums] = functools.partial(
                discriminator_sums, state["generator"]
            )
            state["discriminator"], found = gradient_step(
                sums, optimizer, state["discriminator"], batch, key, accumulation
            )
            for name in ("loss", "gradient_norm"):
                metrics[f"discriminator_{name}"] = found.pop(name)
            metrics |= found
        sums = functools.partial(generator_sums, state.get("discriminator"))
        state["generator"], found = gradient_step(
            sums, optimizer, state["generator"], batch, key, accumulation
        )
        if config.ema_decay:
            # A smaller decay at first, so that the average forgets the initial parameters.
            decay = jnp.minimum(config.ema_decay, (1 + number) / (10 + number))
            now = {"params": state["generator"]["params"], **state["generator"]["model_state"]}
            state["average"] = optax.incremental_update(now, state["average"], 1 - decay)
        return state, {**metrics, **found}

    return step
