"""Trains one run, or an experiment: the rows of a table, each with one or more seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.engine.claim import is_converted, is_finished
from experiments.engine.config import check
from experiments.engine.distributed import all_agree, is_primary
from experiments.engine.files import locked
from experiments.engine.folders import Folders
from experiments.engine.presets import Preset
from experiments.engine.runs import run_folder
from experiments.engine.settings import Operation, RunConfig
from experiments.engine.tables.results import (
    RESULTS,
    Metrics,
    earlier_runs,
    last_evaluation,
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
    """Trains a config, or goes on with its run.

    Args:
        spec: of the task.
        config: of the run, which ``spec`` still prepares.
        output: folder of the run; None for that of the preset that ``config`` is.
        folders: where runs and data lie.
        operation: how the run is logged, saved and evaluated.

    Raises:
        ConfigError: ``output`` is None, and no preset has this config but for the seed.
        CheckpointError: something that the run starts from is missing.
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
    """Trains every row of a table with every seed, and writes and prints what comes of it.

    What an interrupted call has done is not done again, and equal configs are trained once, also
    those of different tables. Seeds that an earlier call has finished stay in the table.

    Leaves, in ``folders.runs`` and there in the folder of the task, a folder ``<preset>-seed<n>``
    for each run, and ``results.json`` and ``table.md`` in the folder ``<name>``.

    Args:
        spec: of the task.
        name: of the experiment in the task's catalogue.
        seeds: they take the place of the presets' own; by default those of the experiment.
        folders: by default those of :class:`Folders`.
        operation: of the runs; by default that of experiment or task.

    Raises:
        ConfigError: ``seeds`` is empty, or has a seed twice or below 0; ``results.json`` cannot be
            read; or the folder of a run holds one that was made of converted weights, or that
            another command trains.
        CheckpointError: something that a run starts from is missing.
    """
    catalogue, folders = spec.catalogue, folders or Folders()
    experiment = catalogue.experiments[name]
    seeds = experiment.seeds if seeds is None else tuple(seeds)
    different = 0 < len(set(seeds)) == len(seeds)
    check(different and min(seeds) >= 0, "seeds", "one or more from 0 on, all different", [*seeds])
    operation = operation or experiment.operation or catalogue.operation
    output = folders.runs / catalogue.task / name
    # Errors of any row are found before the first one is trained.
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
        _check_not_converted(preset.name, folder)  # hours may have passed
        # A finished run needs no claim, which another table may hold at the moment.
        if not all_agree(_is_trained(spec, config, folder)):
            spec.train(config, folder, folders, operation)
        if is_primary():
            found[preset.name][seed] = last_evaluation(folder)
    if is_primary():
        with locked(output):
            # Read once more: another call may have finished other seeds since.
            earlier = read_results(output / RESULTS)
            every = [
                {**earlier_runs(preset, earlier), **found[preset.name]}
                for preset in experiment.presets
            ]
            rows = _rows(spec, experiment.presets, every, folders.runs)
            report = spec.report(rows, output, folders) if spec.report else Report()
            write_results(output, experiment.title, catalogue.metrics, rows, every, report)


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
    """The rows of a table, with the seeds that all of them have."""
    shared = sorted(set.intersection(*map(set, every)))
    rows = []
    for preset, metrics in zip(presets, every, strict=True):
        folders = {
            seed: run_folder(preset.config.with_training(seed=seed), spec.catalogue.presets, runs)
            for seed in shared
        }
        of_seeds = {seed: metrics[seed] for seed in shared}
        rows.append(Row(preset, spec.cost(preset.config), folders, of_seeds))
    return rows
