"""A task that fits a line: it has parameters, an optimiser and an evaluation."""

import dataclasses

import grain
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine.loop import Task, train
from experiments.engine.settings import Operation, TrainingConfig
from experiments.engine.step import LossSums, initial_state, supervised_step


@dataclasses.dataclass(frozen=True)
class Config:
    training: TrainingConfig = dataclasses.field(
        default_factory=lambda: TrainingConfig(batch_size=8)
    )


def loss(params, model_state, batch, key):
    del key
    error = (params["slope"] * batch["x"] + params["offset"] - batch["y"]) ** 2
    seen = {"seen": model_state["seen"] + batch["x"].mean()}
    return LossSums(error.sum(), jnp.float32(error.size), {}, seen)


def batches():
    """Shuffled points of a line."""

    def example(number):
        x = np.float32(number / 50 - 1)
        unreadable = np.full(1, -1, np.int64)
        return {"x": x, "y": 3 * x + 2, "record": np.int64(number), "unreadable": unreadable}

    return grain.MapDataset.source(np.arange(100)).map(example).seed(0).shuffle().repeat().batch(8)


def run(folder, steps):
    """Trains with an evaluation and a checkpoint after every fourth step."""
    optimizer = optax.adam(0.1)
    params = {"slope": np.zeros((), np.float32), "offset": np.zeros((), np.float32)}
    task = Task(
        state=initial_state(params, {"seen": np.zeros((), np.float32)}, optimizer),
        step=supervised_step(loss, optimizer, optax.constant_schedule(0.1)),
        dataset=batches(),
        steps=steps,
        evaluate=lambda state: {"offset": float(state["params"]["offset"])},
        best="offset",
    )
    operation = Operation(checkpoint_every=4, evaluate_every=4, keep_last=1, log_every=1)
    return train(folder, Config(), Config().training, task, operation)
