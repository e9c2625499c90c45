"""Optimisers and learning rates, by Optax."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from experiments.engine.config import check
from experiments.engine.optimization_config import OptimizerConfig, ScheduleConfig


def learning_rate(
    optimizer: OptimizerConfig, schedule: ScheduleConfig, batch_size: int, steps_per_epoch: int
) -> optax.Schedule:
    """Returns the schedule of the learning rate, a function of the step, which counts from 0.

    Raises:
        ConfigError: the learning rate would decrease during the warm-up, or increase after it.
    """
    scale = batch_size / (optimizer.reference_batch_size or batch_size)
    peak = optimizer.learning_rate * scale
    warmup, total = (
        schedule.steps(length, steps_per_epoch) for length in (schedule.warmup, schedule.length)
    )
    rest = max(1, total - warmup)
    match schedule.decay:
        case "constant":
            main = optax.constant_schedule(peak)
        case "step":
            factors: dict[int, float] = {}
            for milestone in schedule.milestones:
                step = schedule.steps(milestone, steps_per_epoch) - warmup
                # Two milestones may be rounded to the same step.
                factors[step] = factors.get(step, 1.0) * schedule.factor
            main = optax.piecewise_constant_schedule(peak, factors)
        case "cosine":
            main = optax.cosine_decay_schedule(peak, rest)
        case "poly":
            lowest = schedule.lowest
            check(
                lowest <= peak, "lowest", f"at most the peak of the learning rate, {peak:g}", lowest
            )
            main = optax.polynomial_schedule(peak, lowest, schedule.power, rest)
    if not warmup:
        return main
    check(
        schedule.warmup_from <= peak,
        "warmup_from",
        f"at most the peak of the learning rate, {peak:g} for batches of {batch_size}",
        schedule.warmup_from,
    )
    ramp = optax.linear_schedule(schedule.warmup_from, peak, warmup)
    return optax.join_schedules([ramp, main], [warmup])


def make_optimizer(
    config: OptimizerConfig,
    rate: optax.Schedule,
    frozen: Callable[[tuple[str, ...]], bool] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimiser of a config, as an Optax transformation.

    Args:
        config: config of the optimiser.
        rate: learning rate at each step.
        frozen: function that returns, for the path of a parameter, whether the loss is independent
            of the parameter by design. Weight decay would change such a parameter.
    """

    def decay_mask(params: Any) -> Any:
        def decays(path: Any, leaf: Any) -> bool:
            names = tuple(str(key.key) for key in path)
            # Kernels have more than one axis; biases and the scales of normalisation have one.
            kind = config.decay_all or leaf.ndim > 1
            return kind and not (frozen is not None and frozen(names))

        return jax.tree.map_with_path(decays, params)

    if config.name == "adam":
        return optax.adamw(
            rate, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=decay_mask
        )
    sgd = optax.sgd(rate, momentum=config.momentum, nesterov=config.nesterov)
    return optax.chain(optax.add_decayed_weights(config.weight_decay, mask=decay_mask), sgd)
