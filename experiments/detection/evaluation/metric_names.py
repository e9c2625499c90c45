"""The names of COCO's metrics."""

from typing import Literal

# In the order in which pycocotools sums an evaluation up.
AVERAGE_PRECISIONS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")
AVERAGE_RECALLS = ("AR1", "AR10", "AR100", "AR_S", "AR_M", "AR_L")
METRICS = AVERAGE_PRECISIONS + AVERAGE_RECALLS


def logged_name(compared: Literal["box", "mask"], metric: str) -> str:
    """Names a metric of a run: ``box_AP``, and ``box/AP50`` and so on, which are its details.

    Args:
        compared: what the metric compares.
        metric: one of :data:`METRICS`.
    """
    return f"{compared}_{metric}" if metric == "AP" else f"{compared}/{metric}"
