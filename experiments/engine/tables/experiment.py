"""Trains one run, or all runs of an experiment: the rows of a table, with one or more seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.engine.claim import is_converted, is_finished
from experiments.engine.config import check
from experiments.engine.distributed import all_agree, is_primary
from experiments.engine.files import locked
from experiments.engine.folders import Folders
from experiments.engine.monitoring.logs import METRICS as LOG
from experiments.engine.monitoring.logs import read_metrics
from experiments.engine.presets import Experiment, Preset
from experiments.engine.runs import run_folder
from experiments.engine.settings import Operation, RunConfig
from experiments.engine.tables.curves import save_difference_curves, save_training_curves
from experiments.engine.tables.differences import difference_notes, differences_of
from experiments.engine.tables.example_sums import complete_sums
from experiments.engine.tables.last_evaluation import Metrics, last_evaluation
from experiments.engine.tables.results import (
    RESULTS,
    Earlier,
    earlier_runs,
    read_results,
    write_results,
)
from experiments.engine.tables.spec import Report, Row, TaskSpec


def run_config[Config: RunConfig](
    spec: TaskSpec[Config],
    config: Config,
    output: Path | None,
    folders: Folders,
    operation: Operation,
) -> None:
    """Trains a config, or continues its run.

    Args:
        spec: spec of the task.
        config: config of the run, before ``spec`` has prepared it.
        output: folder of the run; None for the folder of the preset with this config.
        folders: folders of runs and data.
        operation: settings of logging, checkpoints and evaluation of the run.

    Raises:
        ConfigError: ``output`` is None, and no preset has this config, apart from the seed.
        CheckpointError: weights from which the run starts are missing.
    """
    catalogue = spec.catalogue
    output = output or run_folder(config, catalogue.presets, folders.runs)
    spec.train(spec.prepare_config(config, output, folders), output, folders, operation)


def run_experiment[Config: RunConfig](
    spec: TaskSpec[Config],
    name: str,
    seeds: Sequence[int] | None = None,
    folders: Folders | None = None,
    operation: Operation | None = None,
) -> None:
    """Trains every row of a table with every seed, then writes and prints the table.

    Work that an interrupted call has finished is not repeated, and equal configs are trained only
    once, even if they are in different tables. The table keeps seeds that an earlier call finished.

    The folder of the task in ``folders.runs`` then has a folder ``<preset>-seed<n>`` for each run,
    and a folder ``<name>`` with ``results.json``, ``table.md``, and the figures ``curves.png`` and,
    if the experiment has comparisons and evaluates during the training, ``differences.png``.

    Args:
        spec: spec of the task.
        name: name of the experiment in the task's catalogue.
        seeds: seeds that replace those of the presets; the default is the experiment's.
        folders: folders of runs and data; the default is :class:`Folders`.
        operation: operation of the runs; the default is the experiment's or the task's.

    Raises:
        ConfigError: ``seeds`` is empty, repeats a seed or has a negative one; ``results.json``
            cannot be read; or the folder of a run holds converted weights, or a run that another
            command trains.
        CheckpointError: weights from which a run starts are missing.
    """
    catalogue, folders = spec.catalogue, folders or Folders()
    experiment = catalogue.experiments[name]
    seeds = experiment.seeds if seeds is None else tuple(seeds)
    different = 0 < len(set(seeds)) == len(seeds)
    check(different and min(seeds) >= 0, "seeds", "one or more from 0 on, all different", [*seeds])
    operation = operation or experiment.operation or catalogue.operation
    output = folders.runs / catalogue.task / name
    # Errors of all rows are reported before the first row is trained.
    if is_primary():
        output.mkdir(parents=True, exist_ok=True)
    read_results(output / RESULTS)
    planned = []
    for preset in experiment.presets:
        for seed in seeds:
            config = preset.config.with_training(seed=seed)
            folder = run_folder(config, catalogue.presets, folders.runs)
            _check_not_converted(preset.name, folder)
            planned.append((preset, seed, folder, spec.prepare_config(config, folder, folders)))
    found: dict[str, dict[int, Metrics]] = {preset.name: {} for preset in experiment.presets}
    for preset, seed, folder, config in planned:
        if is_primary():
            print(f"{folder.name}: {preset.row}")
        _check_not_converted(preset.name, folder)  # it may have been converted meanwhile
        # A finished run needs no claim; another table may hold the claim at the moment.
        if not all_agree(_is_trained(spec, config, folder)):
            spec.train(config, folder, folders, operation)
        if is_primary():
            found[preset.name][seed] = last_evaluation(folder)
    missing = _complete_sums(spec, experiment, seeds, read_results(output / RESULTS), folders)
    if is_primary():
        with locked(output):
            # Read again: another call may have finished other seeds meanwhile.
            earlier = read_results(output / RESULTS)
            every = [
                {**earlier_runs(preset, earlier), **found[preset.name]}
                for preset in experiment.presets
            ]
            rows = _rows(spec, experiment.presets, every, folders.runs)
            differences = differences_of(spec, experiment, rows, missing)
            notes = difference_notes(differences)
            _draw_curves(spec, experiment, rows, output)
            report = spec.report(rows, output, folders) if spec.report else Report()
            metrics = catalogue.metrics
            write_results(
                output, experiment.title, metrics, rows, every, differences, report, notes
            )


def _complete_sums[Config: RunConfig](
    spec: TaskSpec[Config],
    experiment: Experiment[Config],
    seeds: Sequence[int],
    earlier: Earlier,
    folders: Folders,
) -> dict[Path, str]:
    """Computes the sums of examples of compared rows; the reasons for sums that are missing.

    Seeds that another call finishes from now on have their sums: it writes them before its results.
    """
    if spec.examples is None:
        return {}
    runs = dict[Path, None]()
    compared = experiment.compared
    for preset in experiment.presets:
        if preset.name in compared:
            for seed in sorted({*seeds, *earlier_runs(preset, earlier)}):
                config = preset.config.with_training(seed=seed)
                runs[run_folder(config, spec.catalogue.presets, folders.runs)] = None
    return complete_sums(spec, list(runs), folders)


def _draw_curves[Config: RunConfig](
    spec: TaskSpec[Config],
    experiment: Experiment[Config],
    rows: Sequence[Row[Config]],
    output: Path,
) -> None:
    metrics, names = spec.catalogue.metrics, {row.preset.name: row.preset.row for row in rows}
    logs = {
        row.preset.name: {seed: read_metrics(run / LOG) for seed, run in row.folders.items()}
        for row in rows
    }
    named = {names[name]: by_seed for name, by_seed in logs.items()}
    save_training_curves(output / "curves.png", named, metrics, spec.losses)
    save_difference_curves(output / "differences.png", logs, names, experiment.comparisons, metrics)


def _check_not_converted(name: str, folder: Path) -> None:
    check(
        not is_converted(folder),
        name,
        "trained from its first step to be a row; --runs names another folder",
        f"converted weights in {folder}",
    )


def _is_trained[Config: RunConfig](spec: TaskSpec[Config], config: Config, folder: Path) -> bool:
    return is_finished(folder) and spec.run_type.load_config(folder) == config


def _rows[Config: RunConfig](
    spec: TaskSpec[Config],
    presets: Sequence[Preset[Config]],
    every: Sequence[Mapping[int, Metrics]],
    runs: Path,
) -> list[Row[Config]]:
    """Returns the rows of a table, with the seeds for which all rows have runs."""
    shared = sorted(set.intersection(*map(set, every)))
    rows = []
    for preset, metrics in zip(presets, every, strict=True):
        folders = {
            seed: run_folder(preset.config.with_training(seed=seed), spec.catalogue.presets, runs)
            for seed in shared
        }
        runs_by_seed = {seed: metrics[seed] for seed in shared}
        rows.append(Row(preset, spec.cost(preset.config), folders, runs_by_seed))
    return rows
