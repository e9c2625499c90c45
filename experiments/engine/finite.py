"""Values that no network can compute with."""

import numpy as np


def bad_values(array: np.ndarray, variance: bool) -> str:
    """Counts the values of an array that are NaN, infinite or, of a variance, negative.

    Args:
        array: of a floating-point dtype.
        variance: whether it holds variances.

    Returns:
        Such as ``"2 of 64 values NaN, 1 of 64 values negative"``; empty if there are none.
    """
    finite = np.isfinite(array)
    kinds = {"NaN": np.isnan(array), "infinite": np.isinf(array)}
    if variance:
        kinds["negative"] = finite & (array < 0)
    counts = {kind: int(bad.sum()) for kind, bad in kinds.items()}
    return ", ".join(
        f"{count} of {array.size} values {kind}" for kind, count in counts.items() if count
    )
