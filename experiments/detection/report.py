"""Presets trained with several seeds: what each reaches, and how far seeds spread."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.data.composed.debian import DEFAULT_CACHE
from experiments.detection.presets import DetectionPreset
from experiments.detection.tables import cost_of, last_evaluation
from experiments.detection.task import train_run
from experiments.engine.config import check
from experiments.engine.distributed import is_primary, primary_first
from experiments.engine.files import write_json
from experiments.engine.settings import Operation
from experiments.engine.tables import Spread, Table, print_tables, save_tables

_HEADINGS = {
    "box_AP": "box AP, %",
    "box/AP50": "AP50",
    "box/AP75": "AP75",
    "mask_AP": "mask AP, %",
    "mask/AP50": "AP50",
    "mask/AP75": "AP75",
}
_ONE_SEED = (
    "One seed ranks nothing: how much runs differ by their seeds alone is not known. This shows "
    "that everything works, not which is better."
)
_SEVERAL_SEEDS = "± is the sample standard deviation over the seeds."

Metrics = dict[str, float]


def run_experiment(
    presets: Sequence[DetectionPreset],
    seeds: Sequence[int],
    output: Path,
    data_dir: Path,
    operation: Operation,
    cache: Path = DEFAULT_CACHE,
) -> None:
    """Trains every preset with every seed, and says what comes of it.

    What an interrupted call has done is not done again. Leaves in ``output`` a folder
    ``<preset>-seed<n>`` a run, ``results.json`` and ``table.md``.

    Args:
        presets: with different names.
        seeds: they take the place of the presets' own; all different.
        output: folder of the results.
        data_dir: folder of the tfds data sets.
        operation: how to look after the runs.
        cache: folder of stamps and photographs.

    Raises:
        ConfigError: a seed is there twice, or none.
    """
    different = 0 < len(set(seeds)) == len(seeds)
    check(different, "seeds", "one or more, all different", list(seeds))
    found: dict[str, list[Metrics]] = {preset.name: [] for preset in presets}
    for preset in presets:
        for seed in seeds:
            folder = output / f"{preset.name}-seed{seed}"
            if is_primary():
                print(f"{folder.name}: {preset.row}")
            training = dataclasses.replace(preset.config.training, seed=seed)
            config = dataclasses.replace(preset.config, training=training)
            train_run(config, folder, data_dir, operation, cache)
            evaluated = primary_first(functools.partial(last_evaluation, folder))
            found[preset.name].append(evaluated)
    table, results = summarize(presets, seeds, found)
    note = _SEVERAL_SEEDS if len(seeds) > 1 else _ONE_SEED
    if is_primary():
        write_json(output / "results.json", {"note": note, "presets": results})
        save_tables(output / "table.md", [table], [note])
        print_tables([table], [note])


def summarize(
    presets: Sequence[DetectionPreset],
    seeds: Sequence[int],
    found: Mapping[str, Sequence[Metrics]],
) -> tuple[Table, dict[str, Any]]:
    """Puts the metrics of all runs together.

    Args:
        presets: that were trained.
        seeds: with which each was.
        found: by the name of the preset, the metrics of its runs, in the order of ``seeds``.

    Returns:
        A table with one row a preset, and the same, and the metrics of each run, for JSON.
    """
    rows, results = [], {}
    for preset in presets:
        runs, costs = found[preset.name], cost_of(preset.config)
        # A metric that is undefined in one run, without objects of a size, is not averaged.
        names = [name for name in runs[0] if all(name in run for run in runs)]
        spreads = {name: Spread.of([run[name] for run in runs]) for name in names}
        cells = (
            Spread(*_percent(spreads[name])).text(1) if name in spreads else ""
            for name in _HEADINGS
        )
        rows.append((preset.row, f"{costs.parameters:,}", f"{costs.flops / 1e9:.4g}", *cells))
        results[preset.name] = {
            "row": preset.row,
            **dataclasses.asdict(costs),
            "runs": {str(seed): run for seed, run in zip(seeds, runs, strict=True)},
            "metrics": {name: dataclasses.asdict(spread) for name, spread in spreads.items()},
        }
    headings = ("", "parameters", "GFLOP", *_HEADINGS.values())
    plural = "seeds" if len(seeds) > 1 else "seed"
    title = f"Validation scenes, {plural} {', '.join(map(str, seeds))}"
    return Table(title, headings, tuple(rows)), results


def _percent(spread: Spread) -> tuple[float, float | None]:
    deviation = spread.deviation
    return 100 * spread.mean, None if deviation is None else 100 * deviation
