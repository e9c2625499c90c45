"""Trains the toy task from the command line; tests start it, kill it and start it again."""

import dataclasses
import signal
from pathlib import Path

from experiments.engine.command_line import run_command
from experiments.engine.distributed import start
from experiments.engine.distributed_config import Distributed
from tests.experiments.engine import toy


def train(
    folder: Path,
    steps: int,
    checkpoint_every: int,
    workers: int,
    process: int,
    processes: int,
    port: int,
    note: str = "",
) -> None:
    """Trains as one of several processes; ``note`` names what the second does differently."""
    alone = processes == 1
    start(
        Distributed(
            coordinator=None if alone else f"127.0.0.1:{port}",
            processes=None if alone else processes,
            process=None if alone else process,
            cpu_devices=4 // processes,
        )
    )
    second = note if process == 1 else ""
    dataset = toy.batches(process=process, processes=processes)
    if second == "fails":
        dataset = dataset.map(fail)
    training = dataclasses.replace(toy.Config().training, workers=workers)
    toy.run(
        folder,
        steps,
        config=toy.Config(note="other" if second == "other" else "", training=training),
        dataset=dataset,
        evaluate=evaluate,
        best="score",
        checkpoint_every=checkpoint_every,
        evaluate_every=2 * checkpoint_every,
    )


def evaluate(state):
    """Returns a metric that rises and falls as the sum grows."""
    return {"score": float(state["sum"]) % 100}


def fail(batch):
    raise OSError("cannot read")


if __name__ == "__main__":
    # SIGINT is ignored if the tests were started in the background of a script.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # tyro makes subcommands only of at least two commands.
    run_command("toy", {"train": train, "evaluate": evaluate})
