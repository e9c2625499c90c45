"""The commands of the toy task, whose runs are trained by all started processes."""

import grain
import jax
import numpy as np

from experiments.data.records import PaddedRecords
from experiments.engine.command_line import run_command
from experiments.engine.commands import task_commands
from experiments.engine.evaluation import COUNT, values_of_examples
from experiments.engine.presets import Comparison, Experiment
from experiments.engine.runs import RunType
from experiments.engine.tables.spec import ExampleMetrics
from experiments.engine.tables.statistics import ExampleSums, means_of
from tests.experiments.engine import toy
from tests.experiments.engine.toy_spec import NARROW, WIDE, ToyConfig, toy_spec

COMPARED = Experiment("Table 1", (NARROW, WIDE), comparisons=(Comparison("wide", "narrow"),))


def train(config, folder, folders, operation):
    del folders, operation
    dataset = toy.batches(process=jax.process_index(), processes=jax.process_count())
    accuracy = {"accuracy": config.width / 10}
    toy.run(folder, 3, config=config, dataset=dataset, evaluate=lambda state: accuracy)


def example_sums(run, folders):
    """Twelve examples, shared by the processes; their mean is the accuracy."""
    del folders
    mean = run.config.width / 10
    values = list(mean * np.linspace(0.5, 1.5, 12, dtype=np.float32))
    records = PaddedRecords(values, lambda value: {"x": value}, 4, {"x": np.float32(0)})
    dataset = grain.MapDataset.source(records)[jax.process_index() :: jax.process_count()]
    batches = dataset.batch(4 // jax.process_count())
    numbers, found = values_of_examples(
        lambda state, batch: {"accuracy": batch["x"]}, run.state, batches
    )
    sums = {**found, COUNT: np.ones(len(numbers))}
    return ExampleSums(sums, numbers.tolist(), [str(number) for number in numbers], "images")


if __name__ == "__main__":
    spec, _ = toy_spec(
        experiments={"table1": COMPARED},
        train=train,
        run_type=RunType(ToyConfig, lambda config: toy.START, best="accuracy"),
        examples=ExampleMetrics(example_sums, means_of),
    )
    run_command("toy", task_commands(spec.catalogue, lambda: spec))
