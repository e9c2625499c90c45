"""Tables and files of the shares of the source weight on the own object."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.engine.json_files import write_json
from experiments.engine.tables.results import RESULTS, TABLE
from experiments.engine.tables.table import Table, print_tables, save_tables
from experiments.engine.text import printable
from experiments.source_maps.own_object import Mean, Means

NOTES = (
    "Share: part of a target's source weight that lies on the object in which the target's centre "
    "lies, in percent; weight beyond the border of the image does not count. Shares are averaged "
    "over the targets of each object, and then over objects.",
    "At borders: the targets whose share with the box filter is neither 0 nor 100 %.",
    "Weight in image: part of the source weight within the image. The rest lies beyond its border, "
    "where features are zero or belong to the padding.",
    "Only reassemblies count, not the convolutions between them.",
)
_HEADINGS = (
    "method",
    "objects",
    "targets",
    "share, %",
    "targets at borders",
    "share there, %",
    "weight in image, %",
)


def write_shares(
    measured: Mapping[str, Mapping[str, Means]],
    output: Path,
    run: Path,
    step: int,
    split: str,
    images: int,
    notes: Sequence[str] = NOTES,
) -> None:
    """Prints a table of each pathway of a run, and writes ``results.json`` and ``table.md``.

    Args:
        measured: means by the names of the pathway and of the method.
        output: folder of the files.
        run: folder of the run.
        step: step of the run's checkpoint.
        split: split of the images.
        images: number of images.
        notes: notes below the tables.
    """
    count = f"{images} images of {split}, step {step}"
    tables = [shares_table(f"{name}, {count}", means) for name, means in measured.items()]
    print_tables(tables, notes)
    results = {name: shares_json(means) for name, means in measured.items()}
    about = {"run": printable(run), "step": step, "split": split, "images": images}
    write_json(output / RESULTS, {**about, "pathways": results})
    save_tables(output / TABLE, tables, notes)
    print(f"results in {printable(output)}")


def shares_table(title: str, means: Mapping[str, Means]) -> Table:
    """Returns a table with a row for each method.

    Args:
        title: title of the table.
        means: means by the name of the method.
    """
    rows = [
        (
            name,
            str(every.objects),
            str(every.targets),
            _percent(every),
            str(border.targets),
            _percent(border),
            _percent(in_image),
        )
        for name, (every, border, in_image) in means.items()
    ]
    return Table(title, _HEADINGS, tuple(rows))


def shares_json(means: Mapping[str, Means]) -> dict[str, Any]:
    """Returns the means of each method for a JSON file; shares are in [0, 1].

    Args:
        means: means by the name of the method.
    """
    return {
        name: {kind: _entry(mean) for kind, mean in each._asdict().items()}
        for name, each in means.items()
    }


def _entry(mean: Mean) -> dict[str, Any]:
    return {"objects": mean.objects, "targets": mean.targets, "mean": mean.mean}


def _percent(mean: Mean) -> str:
    return "-" if mean.mean is None else f"{100 * mean.mean:.1f}"
