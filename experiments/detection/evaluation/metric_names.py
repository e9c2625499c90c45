"""The names of COCO's metrics."""

from typing import Literal

# In the order of pycocotools' summary.
AVERAGE_PRECISIONS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")
AVERAGE_RECALLS = ("AR1", "AR10", "AR100", "AR_S", "AR_M", "AR_L")
METRICS = AVERAGE_PRECISIONS + AVERAGE_RECALLS


def logged_name(compared: Literal["box", "mask"], metric: str) -> str:
    """The name of a metric in logs: ``box_AP``, or for its details ``box/AP50`` and so on.

    Args:
        compared: whether the metric compares boxes or masks.
        metric: one of :data:`METRICS`.
    """
    return f"{compared}_{metric}" if metric == "AP" else f"{compared}/{metric}"
