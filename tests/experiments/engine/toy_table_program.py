"""The commands of the toy task, whose runs are trained by all started processes."""

import jax

from experiments.engine.command_line import run_command
from experiments.engine.commands import task_commands
from tests.experiments.engine import toy
from tests.experiments.engine.toy_spec import toy_spec


def train(config, folder, folders, operation):
    del folders, operation
    dataset = toy.batches(process=jax.process_index(), processes=jax.process_count())
    accuracy = {"accuracy": config.width / 10}
    toy.run(folder, 3, config=config, dataset=dataset, evaluate=lambda state: accuracy)


if __name__ == "__main__":
    spec, _ = toy_spec(train=train)
    run_command("toy", task_commands(spec.catalogue, lambda: spec))
