"""A task whose runs take no time, for tests of experiments and commands."""

import dataclasses
import json
from typing import Annotated, Literal

import tyro

from experiments.engine import config as configs
from experiments.engine.presets import Catalogue, Experiment, Metric, Preset
from experiments.engine.runs import RunType
from experiments.engine.settings import Operation, RunConfig
from experiments.engine.tables.cost import Cost
from experiments.engine.tables.spec import TaskSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyConfig(RunConfig):
    """Attributes: width: number that determines the metrics; wider runs are better."""

    width: int = 1
    side: int = 32
    task: Annotated[Literal["toy"], tyro.conf.Suppress] = "toy"


NARROW = Preset("narrow", "Narrow", ToyConfig(width=1), {"accuracy": 12.3, "fps": 4.5})
WIDE = Preset("wide", "Wide", ToyConfig(width=2), paper_note="none: too wide")
SAME = Preset("same", "Narrow again", ToyConfig(width=1))
EXPERIMENTS = {
    "table1": Experiment("Table 1", (NARROW, WIDE)),
    "table2": Experiment("Table 2", (SAME, WIDE), seeds=(0, 1)),
}
METRICS = (
    Metric("accuracy", "accuracy", "%", 1, 100),
    Metric("accuracy/small", "of small ones", "%", 1, 100, "column"),
    Metric("loss", "loss", digits=3, place="detail"),
    Metric("fps", "", "fps", 1),
)


def evaluation_of(config):
    accuracy = config.width / 10 + config.training.seed / 100
    return {"accuracy": accuracy, "accuracy/small": accuracy / 2, "loss": 1.5}


def toy_spec(presets=(NARROW, WIDE, SAME), experiments=EXPERIMENTS, **changes):
    """Returns the task, and the list of its trained runs: config, folder, other arguments."""
    trained = []

    def train(config, folder, *rest):
        trained.append((config, folder, *rest))
        folder.mkdir(parents=True, exist_ok=True)
        configs.save(config, folder / "config.json")
        lines = [
            {"step": 1, "loss": 9.0},
            {"step": 2, "eval/accuracy": 0.99},  # not the final state
            {"step": 4, **{f"eval/{key}": value for key, value in evaluation_of(config).items()}},
        ]
        log = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(log)

    spec = TaskSpec(
        catalogue=Catalogue(METRICS, presets, experiments, Operation(log_every=7)),
        run_type=RunType(ToyConfig, lambda config: {}, best="accuracy"),
        train=train,
        cost=lambda config: Cost(1000 * config.width * config.side, 2_000_000_000 * config.width),
        step_seconds=lambda config, batch_size: (0.5 * config.width, 0.25 * config.width),
        resized=lambda config, side: dataclasses.replace(config, side=side),
    )
    return dataclasses.replace(spec, **changes), trained
