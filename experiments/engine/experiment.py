"""An experiment: the rows of a table, each trained with one or more seeds."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.engine.config import ConfigError, check
from experiments.engine.cost import Cost
from experiments.engine.distributed import is_primary
from experiments.engine.files import alone_in, write_json
from experiments.engine.folders import Folders
from experiments.engine.logs import EVALUATION, METRICS, read_metrics
from experiments.engine.presets import Metric, Preset, scores_text
from experiments.engine.runs import RunType, run_folder
from experiments.engine.settings import Operation, RunConfig
from experiments.engine.tables import Spread, Table, print_tables, save_tables

ONE_SEED = (
    "One seed ranks nothing: how much runs differ by their seeds alone is not known. This shows "
    "that everything works, not which is better."
)
SEVERAL_SEEDS = "± is the sample standard deviation over the seeds."
RESULTS, TABLE = "results.json", "table.md"

Metrics = dict[str, float]
Earlier = dict[str, tuple[Any, dict[int, Metrics]]]


@dataclasses.dataclass(frozen=True)
class Experiment[Config: RunConfig]:
    """Presets that are trained to stand in one table.

    Attributes:
        title: of the table.
        presets: its rows, with different names.
        seeds: of the runs, unless others are asked for.
        operation: of the runs, unless another is asked for; None for that of the task.
    """

    title: str
    presets: tuple[Preset[Config], ...]
    seeds: tuple[int, ...] = (0,)
    operation: Operation | None = None


@dataclasses.dataclass(frozen=True)
class Row[Config: RunConfig]:
    """A row of a table whose runs are finished.

    Attributes:
        preset: that was trained.
        cost: of its model on one image.
        folders: of its runs, by the seed.
        runs: metrics of the final state of each run, by the seed, in the order of the seeds.
    """

    preset: Preset[Config]
    cost: Cost
    folders: Mapping[int, Path]
    runs: Mapping[int, Metrics]

    @property
    def metrics(self) -> dict[str, Spread]:
        """Mean and deviation of each metric that all runs have."""
        first, *others = self.runs.values()
        # A metric may be undefined in a run, such as the AP of sizes of which there is no object.
        names = [name for name in first if all(name in run for run in others)]
        return {name: Spread.of([run[name] for run in self.runs.values()]) for name in names}


@dataclasses.dataclass(frozen=True)
class Report:
    """What a task adds to the table of an experiment.

    Attributes:
        tables: further ones.
        notes: lines below all tables.
        results: further entries of the JSON, by the name of the preset.
        hints: lines for the terminal alone.
    """

    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    results: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    hints: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class TaskSpec[Config: RunConfig]:
    """What command line and tables need to know of a task.

    Attributes:
        run_type: of its runs.
        metrics: of its evaluation, in the order in which tables show them.
        presets: all of them, with different names. Equal configs are one run, named after the
            first.
        experiments: by the name of their command.
        operation: of runs, by default.
        train: trains a config in the folder of a run, or goes on with it.
        cost: parameters and operations of a config's model on one image, by shapes alone.
        step_seconds: median seconds of a training step and of an inference, each on a random batch
            of a given size.
        resized: the same config for images whose shorter side has another length, in pixels.
        prepared: a config as it is trained, given the folder of its run and those of the command.
            Raises an error where something that the run starts from is missing.
        report: what the task adds to a table, which it may also draw: from the rows, the folder of
            the table and those of the command. The first process alone calls it.
    """

    run_type: RunType[Config]
    metrics: tuple[Metric, ...]
    presets: tuple[Preset[Config], ...]
    experiments: Mapping[str, Experiment[Config]]
    operation: Operation
    train: Callable[[Config, Path, Folders, Operation], Any]
    cost: Callable[[Config], Cost]
    step_seconds: Callable[[Config, int], tuple[float, float]]
    resized: Callable[[Config, int], Config]
    prepared: Callable[[Config, Path, Folders], Config] = lambda config, folder, folders: config
    report: Callable[[Sequence[Row[Config]], Path, Folders], Report] | None = None

    @property
    def name(self) -> str:
        """Of the task's package in ``experiments``."""
        return self.run_type.task


def run_experiment[Config: RunConfig](
    spec: TaskSpec[Config],
    name: str,
    seeds: Sequence[int] | None = None,
    folders: Folders | None = None,
    operation: Operation | None = None,
) -> None:
    """Trains every row of a table with every seed, and writes and prints what comes of it.

    What an interrupted call has done is not done again, and equal configs are trained once, also
    those of different tables. Seeds that an earlier call has finished stay in the table.

    Leaves, in ``folders.runs`` and there in the folder of the task, a folder ``<preset>-seed<n>``
    for each run, and ``results.json`` and ``table.md`` in the folder ``<name>``.

    Args:
        spec: of the task.
        name: of the experiment in ``spec``.
        seeds: they take the place of the presets' own; by default those of the experiment.
        folders: by default those of :class:`Folders`.
        operation: of the runs; by default that of experiment or task.

    Raises:
        ConfigError: ``seeds`` is empty, or has a seed twice or below 0; or ``results.json`` cannot
            be read.
    """
    experiment, folders = spec.experiments[name], folders or Folders()
    seeds = experiment.seeds if seeds is None else tuple(seeds)
    different = 0 < len(set(seeds)) == len(seeds)
    check(different and min(seeds) >= 0, "seeds", "one or more from 0 on, all different", [*seeds])
    operation = operation or experiment.operation or spec.operation
    output = folders.runs / spec.name / name
    # Errors of any row are found before the first one is trained.
    _read_results(output / RESULTS)
    planned = []
    for preset in experiment.presets:
        for seed in seeds:
            config = preset.config.with_training(seed=seed)
            folder = run_folder(config, spec.presets, folders.runs, spec.name)
            planned.append((preset, seed, folder, spec.prepared(config, folder, folders)))
    found: dict[str, dict[int, Metrics]] = {preset.name: {} for preset in experiment.presets}
    for preset, seed, folder, config in planned:
        if is_primary():
            print(f"{folder.name}: {preset.row}")
        spec.train(config, folder, folders, operation)
        if is_primary():
            found[preset.name][seed] = last_evaluation(folder)
    if is_primary():
        with alone_in(output):
            # Read once more: another call may have finished other seeds since.
            earlier = _read_results(output / RESULTS)
            every = [
                {**_earlier_runs(preset, earlier), **found[preset.name]}
                for preset in experiment.presets
            ]
            rows = _rows(spec, experiment.presets, every, folders.runs)
            report = spec.report(rows, output, folders) if spec.report else Report()
            _write(output, _table(experiment.title, rows, spec.metrics), rows, every, report)


def _rows[Config: RunConfig](
    spec: TaskSpec[Config],
    presets: Sequence[Preset[Config]],
    every: Sequence[Mapping[int, Metrics]],
    runs: Path,
) -> list[Row[Config]]:
    """The rows of a table, with the seeds that all of them have."""
    shared = sorted(set.intersection(*map(set, every)))
    rows = []
    for preset, metrics in zip(presets, every, strict=True):
        folders = {
            seed: run_folder(preset.config.with_training(seed=seed), spec.presets, runs, spec.name)
            for seed in shared
        }
        of_seeds = {seed: metrics[seed] for seed in shared}
        rows.append(Row(preset, spec.cost(preset.config), folders, of_seeds))
    return rows


def _write(
    output: Path,
    table: Table,
    rows: Sequence[Row[Any]],
    every: Sequence[Mapping[int, Metrics]],
    report: Report,
) -> None:
    """Writes and prints a table and the task's report.

    Args:
        output: folder of the table.
        table: of the rows.
        rows: with the runs of the seeds that all rows have.
        every: all runs of each row, by the seed, for the JSON.
        report: of the task.
    """
    seeds = list(rows[0].runs)
    note = SEVERAL_SEEDS if len(seeds) > 1 else ONE_SEED
    tables, notes = (table, *report.tables), (note, *report.notes)
    presets = {
        row.preset.name: {
            "row": row.preset.row,
            "config": dataclasses.asdict(row.preset.config),
            "paper": row.preset.paper,
            **dataclasses.asdict(row.cost),
            "runs": {str(seed): runs[seed] for seed in sorted(runs)},
            "metrics": plain(row.metrics),
            **report.results.get(row.preset.name, {}),
        }
        for row, runs in zip(rows, every, strict=True)
    }
    results = {"title": table.title, "note": note, "seeds": seeds, "presets": presets}
    write_json(output / RESULTS, results)
    save_tables(output / TABLE, tables, notes)
    print_tables(tables, [*notes, f"Results: {output}", *report.hints])


def last_evaluation(folder: Path) -> Metrics:
    """The metrics of the final state of a finished run."""
    log = read_metrics(folder / METRICS)
    last = [line for line in log if any(key.startswith(EVALUATION) for key in line)][-1]
    # The log has null for a metric that was not finite.
    return {
        key.removeprefix(EVALUATION): value
        for key, value in last.items()
        if key.startswith(EVALUATION) and value is not None
    }


def plain(row: Mapping[str, Spread]) -> dict[str, Any]:
    """A row of a table as what JSON can hold."""
    return {name: dataclasses.asdict(spread) for name, spread in row.items()}


def _table(title: str, rows: Sequence[Row[Any]], metrics: Sequence[Metric]) -> Table:
    found = [row.metrics for row in rows]
    columns = [metric for metric in metrics if metric.place != "detail"]
    shown = [metric for metric in columns if any(metric.name in row for row in found)]
    headlines = [metric for metric in metrics if metric.place == "headline"]
    lines = []
    for row, values in zip(rows, found, strict=True):
        cells = (
            values[metric.name].scaled(metric.factor).text(metric.digits)
            if metric.name in values
            else ""
            for metric in shown
        )
        paper = scores_text(headlines, row.preset.paper, row.preset.paper_note)
        costs = (f"{row.cost.parameters:,}", f"{row.cost.flops / 1e9:.4g}")
        lines.append((row.preset.row, *costs, *cells, paper))
    seeds = list(rows[0].runs)
    plural = "seeds" if len(seeds) > 1 else "seed"
    headings = ("", "parameters", "GFLOP", *(metric.heading for metric in shown), "paper")
    return Table(f"{title}, {plural} {', '.join(map(str, seeds))}", headings, tuple(lines))


def _read_results(path: Path) -> Earlier:
    """Config and runs of each row that an earlier call has finished."""
    if not path.exists():
        return {}
    try:
        presets = json.loads(path.read_bytes())["presets"]
        read = {name: (entry["config"], _by_seed(entry["runs"])) for name, entry in presets.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} must hold the results of an earlier call, got {error!r}: remove it to start "
            "the table anew from the runs"
        ) from error
    return read


def _by_seed(runs: Mapping[str, Metrics]) -> dict[int, Metrics]:
    return {int(seed): {**metrics} for seed, metrics in runs.items()}


def _earlier_runs(preset: Preset[Any], earlier: Earlier) -> dict[int, Metrics]:
    """The runs of a row that an earlier call has finished, unless its config has changed since."""
    config, runs = earlier.get(preset.name, (None, {}))
    # As JSON has it: without tuples.
    now = json.loads(json.dumps(dataclasses.asdict(preset.config)))
    return runs if config == now else {}
