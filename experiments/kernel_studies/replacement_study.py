"""Evaluates trained networks whose reassembly kernels are replaced."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.engine.batch_fields import UNREADABLE
from experiments.engine.parallel import check_batch_size
from experiments.engine.presets import Metric
from experiments.engine.runs import RunType
from experiments.engine.settings import EvaluationConfig, RunConfig
from experiments.engine.tables.results import plain
from experiments.engine.tables.table import Spread, Spreads, Table
from experiments.kernel_studies.batches import shuffled_batches
from experiments.kernel_studies.mean_kernels import (
    kernel_sums,
    layers_of_small_maps,
    mean_kernels,
)
from experiments.kernel_studies.names import REPLACE_KERNELS
from experiments.kernel_studies.replacement import KINDS, Kind, replaced_kernels
from experiments.kernel_studies.results import StudyFolder
from experiments.kernel_studies.studied_network import (
    Step,
    StudiedNetwork,
    Totals,
    about,
    layer_names,
    load_runs,
    notes_of,
    summed,
    title_of,
)

Metrics = dict[str, float]

NOTES = (
    "own: the kernels that the layers predict. shuffled: kernels predicted for another image, at "
    "the same position. shifted: kernels predicted for the position half a map away along both "
    "axes. mean: the mean of the layer's own kernels over images and positions, for each phase. "
    "box: equal weights, with which training starts. Kernels are replaced in all layers at once; "
    "the networks were not trained with them.",
    "Only pixels whose whole window lies in the map count for mean.",
    "The other image of shuffled may show the same object or a part of the same photograph, which "
    "makes its kernels more similar than the kernels of an unrelated image.",
)


def replace_kernels[Config: RunConfig](
    run_type: RunType[Config],
    runs: Sequence[Path],
    studied_network: Callable[[Config], StudiedNetwork],
    metrics: Sequence[Metric],
    output: Path,
    evaluation: EvaluationConfig,
) -> None:
    """Evaluates runs with each kind of kernels, prints tables, and writes them.

    All kinds are evaluated on the same images, in the batches of
    :func:`experiments.kernel_studies.batches.shuffled_batches`: neither padding nor another seed
    changes which images exchange their kernels.

    Args:
        run_type: properties of the runs of the task.
        runs: folders of one or more runs with CARAFE++, which differ in their seeds only.
        studied_network: function from the config of the runs to the network and its images.
        metrics: metrics of the task; tables leave out metrics whose place is ``"detail"``.
        output: folder for ``results.json`` and ``table.md``.
        evaluation: choice of the checkpoints, and settings of the evaluation. The share of each
            device of a batch must have at least two images.

    Raises:
        CheckpointError: there is no run of this task in a folder, or it cannot be read.
        ConfigError: configs differ in more than the seed, there is no CARAFE++, or the batch size
            is too small or not a multiple of the number of devices; or ``output`` has results of
            another study.
        FolderError: ``output`` cannot be created or written to.
        UnreadableEvaluationError: too many images cannot be read, or no image can.
        NonFiniteEvaluationError: a network gives values that are NaN or infinite.
    """
    check_batch_size(evaluation.batch_size)
    loaded = load_runs(run_type, runs, evaluation.checkpoint)
    first, *_ = loaded.values()
    studied = studied_network(first.config)
    layers = layer_names(studied, first.state, runs)
    batches = shuffled_batches(studied.batches, studied.inputs, jax.local_device_count())
    folder = StudyFolder(output, REPLACE_KERNELS, runs, studied.split)
    folder.check()
    networks = {name: studied.network_of(run.state) for name, run in loaded.items()}
    totals = summed(studied, kernel_sums, batches, [*networks.values()], evaluation)
    means = {name: mean_kernels(total.sums) for name, total in zip(networks, totals, strict=True)}
    found = {
        kind: _evaluated(kind, studied.evaluator(_adapted(kind), batches), networks, means)
        for kind in KINDS
    }
    counted = evaluated_images(totals[0], next(iter(found["own"].values())))
    notes = [*NOTES, *notes_of(studied, len(runs), counted)]
    small = layers_of_small_maps(totals[0].sums)
    if small:
        notes.append(
            "No pixel of some phase has its whole window in the map, so all pixels count for mean, "
            f"in the layers {', '.join(layer for layer in layers if layer in small)}."
        )
    title = title_of("Evaluation with replaced kernels", studied, counted.images, loaded)
    tables = replacement_tables(title, found, metrics)
    results = {
        "runs": about(runs, loaded),
        "images": counted.images,
        "kernels": {kind: replacement_json(found, kind) for kind in KINDS},
        "mean_kernels": {
            name: {layer: each[layer].tolist() for layer in layers} for name, each in means.items()
        },
    }
    folder.write(results, evaluation, tables, notes)


def _adapted(kind: Kind) -> Callable[[Step], Step]:
    def adapt(step: Step) -> Step:
        def run(state: Any, batch: Any) -> Any:
            with replaced_kernels(kind, state["means"] if kind == "mean" else None):
                return step(state["network"], batch)

        return run

    return adapt


def _evaluated(
    kind: Kind,
    evaluate: Callable[[Any], Metrics],
    networks: Mapping[str, Any],
    means: Mapping[str, Any],
) -> dict[str, Metrics]:
    """The metrics of each network, by the name of its run."""
    return {
        name: evaluate({"network": network, "means": means[name] if kind == "mean" else {}})
        for name, network in networks.items()
    }


def evaluated_images(totals: Totals, metrics: Metrics) -> Totals:
    """Returns totals with the numbers of images that the metrics count.

    The sums over kernels also count images whose label cannot be read.

    Args:
        totals: sums over kernels.
        metrics: metrics of a run on the same images.
    """
    unreadable = round(metrics.get(UNREADABLE, 0))
    images = totals.images + totals.unreadable - unreadable
    return totals._replace(images=images, unreadable=unreadable)


def spreads(found: Mapping[str, Metrics]) -> dict[str, Spread]:
    """Returns mean and deviation over runs of the metrics that all runs have.

    Args:
        found: metrics of each run, by the name of the run; at least one.
    """
    first, *others = found.values()
    names = [name for name in first if all(name in other for other in others)]
    return {name: Spread.of([each[name] for each in found.values()]) for name in names}


def against_own(found: Mapping[Kind, Mapping[str, Metrics]], kind: Kind) -> dict[str, Spread]:
    """Returns mean and deviation over runs of the metrics minus the metrics with own kernels.

    Args:
        found: metrics by the kind of the kernels and by the name of the run.
        kind: kind of the kernels whose metrics are compared with the metrics of own kernels.
    """
    differences = {
        run: {
            name: value - found["own"][run][name]
            for name, value in metrics.items()
            if name in found["own"][run]
        }
        for run, metrics in found[kind].items()
    }
    return spreads(differences)


def replacement_tables(
    title: str, found: Mapping[Kind, Mapping[str, Metrics]], metrics: Sequence[Metric]
) -> tuple[Table, Table]:
    """Returns tables of the metrics, and of their differences to the metrics with own kernels.

    Args:
        title: title of the first table.
        found: metrics by the kind of the kernels and by the name of the run.
        metrics: metrics of the task.
    """
    own = spreads(found["own"])
    shown = [each for each in metrics if each.place != "detail" and each.name in own]
    headings = ("kernels", *(metric.heading for metric in shown))
    values = [(kind, *_texts(spreads(found[kind]), shown)) for kind in KINDS]
    changes = [
        (kind, *_texts(against_own(found, kind), shown, "+")) for kind in KINDS if kind != "own"
    ]
    return (
        Table(title, headings, tuple(values)),
        Table("Difference to own kernels, run by run", headings, tuple(changes)),
    )


def replacement_json(found: Mapping[Kind, Mapping[str, Metrics]], kind: Kind) -> dict[str, Any]:
    """Returns the metrics of a kind of kernels for a JSON file.

    Args:
        found: metrics by the kind of the kernels and by the name of the run.
        kind: kind of the kernels.
    """
    return {
        "runs": found[kind],
        "metrics": plain(spreads(found[kind])),
        "against_own": plain(against_own(found, kind)),
    }


def _texts(row: Spreads, shown: Sequence[Metric], sign: str = "") -> list[str]:
    return [
        row[metric.name].scaled(metric.factor).text(metric.digits, sign)
        if metric.name in row
        else ""
        for metric in shown
    ]
