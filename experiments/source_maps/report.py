"""The table of shares of the source weight on the own object."""

from collections.abc import Mapping
from typing import Any

from experiments.engine.tables.table import Table
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
