"""A task that is small enough to be trained hundreds of times."""

import dataclasses

import grain
import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine.loop import Task, train
from experiments.engine.settings import Operation, TrainingConfig


@dataclasses.dataclass(frozen=True)
class Config:
    note: str = "toy"
    training: TrainingConfig = dataclasses.field(
        default_factory=lambda: TrainingConfig(batch_size=8)
    )


START = {"sum": np.zeros((), np.float32)}


class Jitter(grain.transforms.RandomMap):
    def random_map(self, element, rng):
        return {**element, "x": np.float32(element["x"] + rng.random())}


def batches(unreadable=lambda number: False, process=0, processes=1):
    """Returns shuffled batches; ``unreadable`` numbers report the previous record as unreadable."""

    def example(number):
        return {
            "x": np.float32(number),
            "record": np.int64(number),
            "unreadable": np.array([number - 1 if unreadable(number) else -1, -1], np.int64),
        }

    source = grain.MapDataset.source(np.arange(100)).map(example)
    shuffled = source.seed(0).shuffle().repeat().random_map(Jitter())
    return shuffled[process::processes].batch(8 // processes)


def step(state, batch, key, number):
    del number
    noise = jax.random.uniform(key)
    total = state["sum"] + jax.lax.pmean(batch["x"].mean() + noise, "devices")
    return {"sum": total}, {"loss": total}


def run(
    folder,
    steps,
    *,
    config=None,
    step=step,
    state=START,
    dataset=None,
    evaluate=None,
    best=None,
    **operation,
):
    options = {"checkpoint_every": 5, "log_every": 1, **operation}
    task = Task(state, step, dataset or batches(), steps, evaluate, best)
    config = config or Config()
    return train(folder, config, config.training, task, Operation(**options))


def poisoned_at(number_to_poison):
    """Returns a step whose gradient is not finite for the batch of a number, from 1."""
    mean = batches()[number_to_poison - 1]["x"].mean()

    def poisoned(state, batch, key, number):
        new, metrics = step(state, batch, key, number)
        distance = jnp.abs(jax.lax.pmean(batch["x"].mean(), "devices") - mean)
        gradient = jnp.where(distance < 1e-3, jnp.nan, 0.0)
        return {"sum": new["sum"] + gradient}, {**metrics, "gradient_norm": gradient}

    return poisoned
