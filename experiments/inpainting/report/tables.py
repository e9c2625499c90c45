"""Tables of inpainting metrics."""

from collections.abc import Mapping

from experiments.engine.tables.table import Spreads, Table
from experiments.inpainting.evaluation import IMAGES
from experiments.inpainting.presets import METRICS

_HEADINGS = tuple(metric.heading for metric in METRICS)


def metrics_table(title: str, rows: Mapping[str, Spreads]) -> Table:
    """A table of metrics over all images, with one row for each run.

    Args:
        title: title of the table.
        rows: metrics of each run, by the run's name.
    """
    texts = ((name, *_texts(row)) for name, row in rows.items())
    return Table(title, ("", *_HEADINGS), tuple(texts))


def bucket_table(title: str, rows: Mapping[str, Spreads]) -> Table:
    """A table with one row for each bucket of hole sizes and each run, sorted by bucket.

    Args:
        title: title of the table.
        rows: metrics of each run, by the run's name; only metrics of buckets are shown.
    """
    keys = dict.fromkeys(key for row in rows.values() for key in row if key.startswith(IMAGES))
    texts = []
    for bucket in (key.removeprefix(IMAGES) for key in keys):
        for name, row in rows.items():
            hole = f"{bucket.removeprefix('/')} %"
            images = f"{row[IMAGES + bucket].mean:.0f}"
            texts.append((hole, name, images, *_texts(row, bucket)))
    return Table(title, ("hole", "", IMAGES, *_HEADINGS), tuple(texts), labels=2)


def _texts(row: Spreads, bucket: str = "") -> list[str]:
    return [row[metric.name + bucket].text(metric.digits) for metric in METRICS]
