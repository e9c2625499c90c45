"""Tables of the metrics of inpainting."""

from collections.abc import Mapping

from experiments.engine.tables.table import Spreads, Table
from experiments.inpainting.evaluation import IMAGES
from experiments.inpainting.presets import METRICS

_HEADINGS = tuple(metric.heading for metric in METRICS)


def metrics_table(title: str, rows: Mapping[str, Spreads]) -> Table:
    """One row a run, over all images.

    Args:
        title: of the table.
        rows: metrics by the name of the run.
    """
    texts = ((name, *_texts(row)) for name, row in rows.items())
    return Table(title, ("", *_HEADINGS), tuple(texts))


def bucket_table(title: str, rows: Mapping[str, Spreads]) -> Table:
    """One row a run and bucket; runs of a bucket stand together.

    Args:
        title: of the table.
        rows: metrics by the name of the run; what they have of buckets is shown.
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
