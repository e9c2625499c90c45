"""State and training of the inpainting task (section 5.1)."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.engine import optimization, step
from experiments.engine.claim import has_checkpoints
from experiments.engine.config import check, differences
from experiments.engine.distributed import is_primary, primary_first
from experiments.engine.folders import Folders
from experiments.engine.loop import Task, train
from experiments.engine.parallel import check_batch_size
from experiments.engine.runs import RunType
from experiments.engine.settings import Operation, TrainingConfig, evaluation_in_training
from experiments.engine.step import State, draw_variables, initial_key
from experiments.inpainting.adversarial import alternating_step, make_discriminator
from experiments.inpainting.configs import InpaintingConfig
from experiments.inpainting.data.batches import open_data, training_batches
from experiments.inpainting.evaluation import make_evaluator
from experiments.inpainting.fill import make_generator, variables_of


def make_optimizer(config: TrainingConfig) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimiser of a config, and its learning rate. The schedule is in steps."""
    rate = optimization.learning_rate(
        config.optimizer, config.schedule, config.batch_size, steps_per_epoch=1
    )
    return optimization.make_optimizer(config.optimizer, rate), rate


def initial_state(config: InpaintingConfig) -> State:
    """Networks and optimisers at step 0; they depend only on the config's sizes and seed.

    Returns:
        A dict with ``generator`` and, if the config has them, ``discriminator`` and ``average``.
        The first two are from :func:`experiments.engine.step.initial_state`; ``average`` has the
        form of :func:`experiments.inpainting.fill.variables_of`.
    """
    optimizer, _ = make_optimizer(config.training)
    side = config.data.crop_side
    image, mask, both = (
        jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32) for channels in (3, 1, 4)
    )

    def state_of(model: Any, number: int, *inputs: jax.ShapeDtypeStruct) -> State:
        key = jax.random.fold_in(initial_key(config.training.seed), number)
        variables = dict(draw_variables(model, key, *inputs))
        return step.initial_state(variables.pop("params"), variables, optimizer)

    state = {"generator": state_of(make_generator(config), 0, image, mask)}
    if config.adversarial.weight:
        state["discriminator"] = state_of(make_discriminator(config), 1, both)
    if config.ema_decay:
        # A copy, because a state that contains an array twice cannot be donated.
        state["average"] = jax.tree.map(jnp.copy, variables_of(state))
    return state


RUNS = RunType(InpaintingConfig, initial_state, best="psnr_image")


def _initialised_from(config: InpaintingConfig, folder: Path, state: State) -> State:
    """An initial state with the networks of another run."""
    run = RUNS.load(folder)
    model = dataclasses.replace(
        run.config.model, freeze_encoder_norm=config.model.freeze_encoder_norm
    )
    changed = differences(model, config.model, "model.")
    if "discriminator" in state and "discriminator" in run.state:
        before, after = run.config.adversarial.discriminator, config.adversarial.discriminator
        changed += differences(before, after, "adversarial.discriminator.")
    check(not changed, "start_from", "a run of the same networks", "; ".join(changed))
    started = dict(state)
    for name in ("generator", "discriminator"):
        if name in state and name in run.state:
            kept = {part: run.state[name][part] for part in ("params", "model_state")}
            started[name] = {**state[name], **kept}
    if "average" in state:
        started["average"] = variables_of(run.state)
    return started


def train_run(
    config: InpaintingConfig, folder: Path, folders: Folders, operation: Operation
) -> State:
    """Trains a run in ``folder``, or resumes it; see :func:`experiments.engine.loop.train`.

    Args:
        config: config of the run.
        folder: folder of the run.
        folders: folders of the data.
        operation: settings of logging, checkpoints and evaluation of the run.
    """
    training = config.training
    check_batch_size(training.batch_size, training.accumulation)
    unit = training.schedule.unit
    check(unit == "step", "schedule.unit", "'step' for this task", unit)
    data = primary_first(lambda: open_data(config.data, folders))
    if is_primary():
        print(f"{len(data.train)} images to train on, {len(data.validation)} to evaluate")
    state = initial_state(config)
    if config.start_from is not None and not has_checkpoints(folder):
        state = _initialised_from(config, Path(config.start_from), state)
    evaluator = make_evaluator(config, data, evaluation_in_training(training, operation))
    task = Task(
        state=state,
        step=alternating_step(config, *make_optimizer(training)),
        dataset=training_batches(data, config.data, training.batch_size, training.seed),
        steps=training.schedule.steps(training.schedule.length, steps_per_epoch=1),
        evaluate=lambda state: evaluator(variables_of(state)),
        best=RUNS.best,
    )
    return train(folder, config, training, task, operation)
