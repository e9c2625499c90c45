"""Presets trained with several seeds: everything that comes of it, in one folder."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.data.composed.debian import DEFAULT_CACHE
from experiments.engine.config import check
from experiments.engine.files import write_json
from experiments.engine.logs import METRICS, read_metrics
from experiments.engine.settings import Operation
from experiments.engine.tables import print_tables, save_tables
from experiments.inpainting.configs import InpaintingConfig
from experiments.inpainting.data.batches import open_data
from experiments.inpainting.evaluation import Metrics
from experiments.inpainting.fill import make_generator, variables_of
from experiments.inpainting.presets import InpaintingPreset
from experiments.inpainting.report import figures
from experiments.inpainting.report.compare import check_same_data
from experiments.inpainting.report.examples import fill_examples, spread_examples
from experiments.inpainting.report.results import summarize
from experiments.inpainting.task import train_run

_EXAMPLES_SHOWN = 5
_EVALUATED = "eval/"

Presets = Mapping[str, InpaintingPreset]


def run_experiment(
    title: str,
    presets: Sequence[InpaintingPreset],
    seeds: Sequence[int],
    output: Path,
    data_dir: Path,
    operation: Operation,
    photographs: Path = DEFAULT_CACHE,
) -> None:
    """Trains every preset with every seed, and measures, compares and draws what comes of it.

    What an interrupted call has done is not done again. Leaves in ``output``: a folder
    ``<preset>-seed<n>`` a run; ``results.json`` and ``table.md``; ``fills.png`` of the first seed;
    ``curves.png``; and ``kernels.png`` of the first seed of the first preset of Global&Local with
    CARAFE++ both ways, if there is one.

    Args:
        title: of the tables.
        presets: all on the same data, with different names.
        seeds: they take the place of the presets' own; all different.
        output: folder of the results.
        data_dir: folder of the tfds data sets.
        operation: how to look after the runs.
        photographs: folder that :mod:`experiments.data.composed.debian` filled; for its source.

    Raises:
        ConfigError: the presets are on different data, or a name or a seed is there twice.
    """
    by_name = {preset.name: preset for preset in presets}
    given = [preset.name for preset in presets]
    check(0 < len(by_name) == len(presets), "presets", "one or more, all different", given)
    different = 0 < len(set(seeds)) == len(seeds)
    check(different, "seeds", "one or more, all different", list(seeds))
    check_same_data({name: preset.config for name, preset in by_name.items()})
    console = Console()
    found: dict[str, list[Metrics]] = {name: [] for name in by_name}
    logs: dict[str, list[figures.Log]] = {preset.row: [] for preset in presets}
    variables: dict[str, Any] = {}
    for name, preset in by_name.items():
        for seed in seeds:
            folder = output / f"{name}-seed{seed}"
            console.print(f"[bold]{folder.name}[/]: {preset.row}", highlight=False, soft_wrap=True)
            config = _with_seed(preset.config, seed)
            state = train_run(config, folder, data_dir, operation, photographs)
            variables.setdefault(name, variables_of(state))
            log = read_metrics(folder / METRICS)
            logs[preset.row].append(log)
            found[name].append(_last_evaluation(log))
    _draw_fills(output, by_name, variables, data_dir, photographs)
    figures.save_training_curves(output / "curves.png", logs)
    summary = summarize(title, by_name, seeds, found)
    write_json(output / "results.json", summary.results)
    save_tables(output / "table.md", summary.tables, [summary.note])
    print_tables(summary.tables, [summary.note, f"Tables and pictures: {output}"])
    predict = f"{sys.executable} -m experiments.inpainting predict IMAGE --mask MASK"
    console.print("To fill a hole of your own:")
    console.print(f"    {predict} --run {folder}", highlight=False, soft_wrap=True)


def _with_seed(config: InpaintingConfig, seed: int) -> InpaintingConfig:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, seed=seed))


def _last_evaluation(log: figures.Log) -> Metrics:
    """Of the final state; every run ends with an evaluation."""
    last = [line for line in log if f"{_EVALUATED}psnr_image" in line][-1]
    evaluated = {key: value for key, value in last.items() if key.startswith(_EVALUATED)}
    return {key.removeprefix(_EVALUATED): value for key, value in evaluated.items()}


def _draw_fills(
    output: Path, presets: Presets, variables: Mapping[str, Any], data_dir: Path, photographs: Path
) -> None:
    shared = next(iter(presets.values())).config.data
    shown = spread_examples(open_data(shared, data_dir, photographs), shared, _EXAMPLES_SHOWN)
    fills = {
        preset.row: fill_examples(preset.config, variables[name], shown)
        for name, preset in presets.items()
    }
    figures.save_fills(output / "fills.png", shown, fills)
    for name, preset in presets.items():
        if figures.has_kernels(preset.config.model):
            model = make_generator(preset.config)
            example = shown[len(shown) // 2]
            figures.save_kernels(output / "kernels.png", model, variables[name], example)
            break
