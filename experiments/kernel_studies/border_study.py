"""Measures which share of the weight of trained reassembly kernels lies inside the map."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.engine.parallel import check_batch_size
from experiments.engine.runs import RunType
from experiments.engine.settings import EvaluationConfig, RunConfig
from experiments.engine.tables.table import Spread, Table
from experiments.kernel_studies.border_sums import RingSums, ring_sums
from experiments.kernel_studies.names import KERNEL_SUMS
from experiments.kernel_studies.results import StudyFolder
from experiments.kernel_studies.studied_network import (
    StudiedNetwork,
    about,
    layer_names,
    load_runs,
    notes_of,
    summed,
    title_of,
)

NOTES = (
    "Share of the weight of a kernel inside the map, the mean over the output pixels whose centre "
    "is 0, 1, 2, ... input pixels away from the border. The last distance of a layer includes all "
    "pixels further inside, whose windows lie in the map. Weight outside the map is lost.",
    "box: a kernel of equal weights on the same maps.",
)
_DIGITS = 3


class LayerMeans(NamedTuple):
    """Mean share of the weight inside the map for each ring; NaN for a ring without pixels.

    Attributes:
        carafe: means of each run, ``[runs, rings]``.
        box: means of a box filter, ``[rings]``.
        carafe_all: mean over all pixels for each run, ``[runs]``.
        box_all: mean of a box filter over all pixels.
    """

    carafe: np.ndarray
    box: np.ndarray
    carafe_all: np.ndarray
    box_all: float


def measure_borders[Config: RunConfig](
    run_type: RunType[Config],
    runs: Sequence[Path],
    studied_network: Callable[[Config], StudiedNetwork],
    output: Path,
    evaluation: EvaluationConfig,
) -> None:
    """Measures runs on their images, prints a table, and writes it.

    Args:
        run_type: properties of the runs of the task.
        runs: folders of one or more runs with CARAFE++, which differ in their seeds only.
        studied_network: function from the config of the runs to the network and its images.
        output: folder for ``results.json`` and ``table.md``.
        evaluation: choice of the checkpoints, and settings of the evaluation.

    Raises:
        CheckpointError: there is no run of this task in a folder, or it cannot be read.
        ConfigError: configs differ in more than the seed, there is no CARAFE++, or the batch size
            is not a multiple of the number of devices; or ``output`` has results of another study.
        FolderError: ``output`` cannot be created or written to.
        UnreadableEvaluationError: too many images cannot be read, or no image can.
        NonFiniteEvaluationError: kernels are NaN or infinite.
    """
    check_batch_size(evaluation.batch_size)
    loaded = load_runs(run_type, runs, evaluation.checkpoint)
    first, *_ = loaded.values()
    studied = studied_network(first.config)
    names = layer_names(studied, first.state, runs)
    folder = StudyFolder(output, KERNEL_SUMS, runs, studied.split)
    folder.check()
    networks = [studied.network_of(run.state) for run in loaded.values()]
    totals = summed(studied, ring_sums, studied.batches, networks, evaluation)
    # Compiled functions return the layers in alphabetical order.
    layers = layer_means([{name: total.sums[name] for name in names} for total in totals])
    title = title_of("Share of the weight inside the map", studied, totals[0].images, loaded)
    tables = [border_table(title, layers)]
    notes = [*NOTES, *notes_of(studied, len(runs), totals[0])]
    results = {
        "runs": about(runs, loaded),
        "images": totals[0].images,
        "layers": {name: border_json(means) for name, means in layers.items()},
    }
    folder.write(results, evaluation, tables, notes)


def layer_means(sums: Sequence[Mapping[str, RingSums[np.ndarray]]]) -> dict[str, LayerMeans]:
    """Computes the means of each layer.

    Args:
        sums: sums over the images for each run, by the name of the layer; at least one run.

    Returns:
        The means by the name of the layer.
    """
    means = {}
    for name, first in sums[0].items():
        inside = np.stack([each[name].inside for each in sums])
        pixels = first.pixels
        with np.errstate(invalid="ignore"):  # rings without pixels
            means[name] = LayerMeans(
                inside / pixels[None],
                first.box / pixels,
                inside.sum(axis=-1) / pixels.sum(),
                float(first.box.sum() / pixels.sum()),
            )
    return means


def border_table(title: str, layers: Mapping[str, LayerMeans]) -> Table:
    """Returns a table with two rows for each layer: its own kernels, and a box filter.

    Args:
        title: title of the table.
        layers: means by the name of the layer.
    """
    rings = max(means.box.size for means in layers.values())
    rows = []
    for name, means in layers.items():
        blank = [""] * (rings - means.box.size)
        for kernels, entries, whole in (
            ("CARAFE++", map(_spread, means.carafe.T), _spread(means.carafe_all)),
            ("box", map(_spread, means.box[:, None]), Spread(means.box_all)),
        ):
            texts = [*map(_text, entries), *blank, _text(whole)]
            rows.append((name or "-", kernels, *texts))
    distances = [f"distance {ring}" for ring in range(rings)]
    return Table(title, ("layer", "kernels", *distances, "all pixels"), tuple(rows), labels=2)


def border_json(means: LayerMeans) -> dict[str, Any]:
    """Returns the means of a layer for a JSON file; rings without pixels are None.

    Args:
        means: means of the layer.
    """
    return {
        "carafe": [_plain(_spread(values)) for values in means.carafe.T],
        "box": [_plain(_spread(values)) for values in means.box[:, None]],
        "carafe_all": _plain(_spread(means.carafe_all)),
        "box_all": _plain(Spread(means.box_all)),
    }


def _spread(values: np.ndarray) -> Spread | None:
    """The spread over runs; None for a ring without pixels."""
    return None if np.isnan(values).any() else Spread.of(values.tolist())


def _text(spread: Spread | None) -> str:
    return "-" if spread is None else spread.text(_DIGITS)


def _plain(spread: Spread | None) -> dict[str, Any] | None:
    return None if spread is None else dataclasses.asdict(spread)
