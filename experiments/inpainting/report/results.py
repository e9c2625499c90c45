"""What an experiment found: tables of metrics, costs and gains, and the same as JSON."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.engine.step import UNREADABLE
from experiments.engine.tables import Row, Spread, Table
from experiments.inpainting.configs import InpaintingConfig
from experiments.inpainting.evaluation import IMAGES, Metrics
from experiments.inpainting.fill import make_generator
from experiments.inpainting.presets import InpaintingPreset
from experiments.inpainting.report.gains import (
    PAPER_METRICS,
    baseline_of,
    gains,
    paper_gains,
)
from experiments.inpainting.report.tables import bucket_table, digits, metrics_table
from experiments.models.cost import Cost, cost

_ONE_SEED = (
    "One seed ranks nothing: how much runs differ by their seeds alone is not known. This shows "
    "that everything works, not which is better."
)
_SEVERAL_SEEDS = (
    "± is the sample standard deviation over the seeds; that of a gain is over pairs of runs with "
    "the same seed."
)


class Summary(NamedTuple):
    """What an experiment found.

    Attributes:
        tables: of metrics, of metrics by the size of the hole, and of costs and gains.
        note: how to read them.
        results: all of it, and the metrics of each run, as what JSON can hold.
    """

    tables: tuple[Table, ...]
    note: str
    results: dict[str, Any]


def summarize(
    title: str,
    presets: Mapping[str, InpaintingPreset],
    seeds: Sequence[int],
    found: Mapping[str, Sequence[Metrics]],
) -> Summary:
    """Puts the metrics of all runs together.

    Args:
        title: of the experiment.
        presets: by name; all on the same data.
        seeds: with which each was trained.
        found: by the name of the preset, the metrics of its runs, in the order of ``seeds``.
    """
    spreads = {name: _spreads(runs) for name, runs in found.items()}
    costs = {name: _cost(preset.config) for name, preset in presets.items()}
    baselines = {name: baseline_of(preset, presets) for name, preset in presets.items()}
    gained = {
        name: gains(found[name], found[baseline])
        for name, baseline in baselines.items()
        if baseline is not None
    }
    first = next(iter(presets))
    data = presets[first].config.data
    images = sum(n for key, n in found[first][0].items() if key.startswith(f"{IMAGES}/"))
    title = (
        f"{title}: {images:.0f} validation images of {data.images or data.source}, "
        f"{'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}"
    )
    rows = {presets[name].row: row for name, row in spreads.items()}
    tables = (
        metrics_table(title, rows),
        bucket_table("By the size of the hole", rows),
        _gains_table(presets, costs, gained),
    )
    note = _SEVERAL_SEEDS if len(seeds) > 1 else _ONE_SEED
    results = {
        name: {
            "row": preset.row,
            "paper": preset.paper,
            "steps": round(preset.config.training.schedule.length),
            **dataclasses.asdict(costs[name]),
            "runs": {str(seed): run for seed, run in zip(seeds, found[name], strict=True)},
            "metrics": _plain(spreads[name]),
            "baseline": baselines[name],
            "gains": _plain(gained.get(name, {})),
        }
        for name, preset in presets.items()
    }
    return Summary(tables, note, {"title": title, "note": note, "presets": results})


def _spreads(runs: Sequence[Metrics]) -> Row:
    return {key: Spread.of([run[key] for run in runs]) for key in runs[0] if key != UNREADABLE}


def _cost(config: InpaintingConfig) -> Cost:
    side = config.data.crop_side
    image, mask = (jax.ShapeDtypeStruct((1, side, side, n), jnp.float32) for n in (3, 1))
    return cost(make_generator(config), image, mask)


def _plain(row: Row) -> dict[str, Any]:
    return {metric: dataclasses.asdict(spread) for metric, spread in row.items()}


def _gains_table(
    presets: Mapping[str, InpaintingPreset], costs: Mapping[str, Cost], gained: Mapping[str, Row]
) -> Table:
    rows = []
    for name, preset in presets.items():
        cells = [f"{costs[name].parameters:,}", f"{costs[name].flops / 1e9:.4g}"]
        paper = paper_gains(preset.config)
        for metric in PAPER_METRICS:
            both = (gained[name], paper) if name in gained else ({}, {})
            cells += [
                row[metric].text(digits(metric), "+") if metric in row else "" for row in both
            ]
        rows.append((preset.row, *cells, preset.paper))
    headings = ("", "parameters", "GFLOP", "ΔL1, %", "paper's", "ΔPSNR, dB", "paper's")
    title = "What a generator costs for one image, and what CARAFE++ changes (Δ)"
    return Table(title, (*headings, "paper's scores"), tuple(rows))
