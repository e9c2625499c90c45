"""Trains the toy task; to be started, killed and started again by tests."""

import dataclasses
import sys
from pathlib import Path

from experiments.engine import distributed
from experiments.engine.distributed import Interrupted
from tests.experiments.engine import toy


def main() -> None:
    folder, steps, checkpoint_every, workers, process, processes, port, note = sys.argv[1:]
    alone = processes == "1"
    distributed.start(
        distributed.Distributed(
            coordinator=None if alone else f"127.0.0.1:{port}",
            processes=None if alone else int(processes),
            process=None if alone else int(process),
            cpu_devices=4 // int(processes),
        )
    )
    training = dataclasses.replace(toy.Config().training, workers=int(workers))
    fails = note == "fails" and process == "1"
    dataset = toy.batches(process=int(process), processes=int(processes))
    if fails:
        dataset = dataset.map(fail)
    try:
        toy.run(
            Path(folder),
            int(steps),
            config=toy.Config(
                note=note if note == "other" and process == "1" else "", training=training
            ),
            dataset=dataset,
            evaluate=evaluate,
            best="score",
            checkpoint_every=int(checkpoint_every),
            evaluate_every=2 * int(checkpoint_every),
        )
    except Interrupted as interrupted:
        print(interrupted)
        sys.exit(143)
    except Exception as error:
        print("error:", error)
        distributed.abort(2)
        sys.exit(2)


def evaluate(state):
    """Goes up and down as the sum grows."""
    return {"score": float(state["sum"]) % 100}


def fail(batch):
    raise OSError("cannot read")


if __name__ == "__main__":
    main()
