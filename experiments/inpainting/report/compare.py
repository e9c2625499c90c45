"""Compares runs on the same images in a table like Table 10 and in a figure like Fig. 8."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.engine.config import ConfigError, check, differences
from experiments.engine.folders import DataFolders
from experiments.engine.json_files import write_json
from experiments.engine.parallel import check_batch_size
from experiments.engine.runs import names_of
from experiments.engine.settings import EvaluationConfig
from experiments.engine.tables.table import Spread, print_tables, save_tables
from experiments.engine.text import encodable
from experiments.inpainting.configs import InpaintingConfig
from experiments.inpainting.data.batches import open_data
from experiments.inpainting.evaluation import Metrics, make_evaluator
from experiments.inpainting.fill import variables_of
from experiments.inpainting.report import figures
from experiments.inpainting.report.examples import fill_examples, spread_examples
from experiments.inpainting.report.tables import bucket_table, metrics_table
from experiments.inpainting.task import RUNS

EVALUATION = EvaluationConfig()


def check_same_data(configs: Mapping[str, InpaintingConfig]) -> None:
    """Checks that runs have the same data, so that their metrics are comparable.

    Args:
        configs: config of each run, by the run's name; at least one.

    Raises:
        ConfigError: two runs differ in their data; the message names the fields.
    """
    first, *others = configs
    for name in others:
        changed = differences(configs[first].data, configs[name].data, "data.")
        if changed:
            raise ConfigError(
                f"expected runs on the same images, got {first} and {name} with "
                f"{'; '.join(changed)}"
            )


def compare(
    runs: Sequence[Path],
    output: Path,
    folders: DataFolders,
    examples: int = 5,
    evaluation: EvaluationConfig = EVALUATION,
) -> None:
    """Evaluates runs on the same images, and draws their fills.

    Writes ``compare.json`` and ``table.md`` with the metrics, and ``fills.png``.

    Args:
        runs: folders of at least two runs on the same data; their networks may differ.
        output: folder of the results.
        folders: folders of the data.
        examples: number of images in the figure.
        evaluation: choice of the checkpoints, and settings of the evaluation.

    Raises:
        ConfigError: the runs have different data, there are fewer than two, or the batch size is
            not a multiple of the number of devices.
        CheckpointError: a run cannot be read.
    """
    check(len(runs) >= 2, "runs", "at least two folders", [str(run) for run in runs])
    check(examples >= 1, "examples", "at least 1", examples)
    names = names_of(runs)
    check_batch_size(evaluation.batch_size)
    loaded = {
        name: RUNS.load(run, evaluation.checkpoint) for name, run in zip(names, runs, strict=True)
    }
    check_same_data({name: run.config for name, run in loaded.items()})
    shared = next(iter(loaded.values())).config.data
    data = open_data(shared, folders)
    evaluated: dict[str, Metrics] = {}
    for name, run in loaded.items():
        evaluate = make_evaluator(run.config, data, evaluation)
        evaluated[name] = evaluate(variables_of(run.state))
    shown = spread_examples(data, shared, examples)
    fills = {
        name: fill_examples(run.config, variables_of(run.state), shown)
        for name, run in loaded.items()
    }
    rows = {
        f"{name}, step {run.step}": {key: Spread(n) for key, n in evaluated[name].items()}
        for name, run in loaded.items()
    }
    images = f"{len(data.validation)} validation images of {shared.images or shared.source}"
    tables = (metrics_table(images, rows), bucket_table("By the size of the hole", rows))
    results = {
        name: {"folder": encodable(folder), "step": loaded[name].step, "metrics": evaluated[name]}
        for name, folder in zip(names, runs, strict=True)
    }
    comparison = {"data": dataclasses.asdict(shared), "runs": results}
    write_json(output / "compare.json", comparison)
    save_tables(output / "table.md", tables)
    figures.save_fills(output / "fills.png", shown, fills)
    print_tables(tables, [f"Tables and figure: {output}"])
