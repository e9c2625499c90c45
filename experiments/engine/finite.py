"""Values that no network can compute with."""

import numpy as np

_LARGEST = 1e19  # its square is still finite in float32


def bad_values(array: np.ndarray, variance: bool) -> str:
    """Counts the values that are NaN, infinite, beyond 1e19 or, for a variance, negative.

    Args:
        array: array of a floating-point dtype.
        variance: whether the array holds variances.

    Returns:
        A text such as ``"2 of 64 values NaN, 1 of 64 values negative"``; empty if there are none.
    """
    array = array.astype(np.float32) if array.itemsize < 4 else array  # float16 cannot hold 1e19
    finite = np.isfinite(array)
    kinds = {
        "NaN": np.isnan(array),
        "infinite": np.isinf(array),
        f"beyond {_LARGEST:.0e}": finite & (np.abs(array) > _LARGEST),
    }
    if variance:
        kinds["negative"] = finite & (array < 0)
    counts = {kind: int(bad.sum()) for kind, bad in kinds.items()}
    return ", ".join(
        f"{count} of {array.size} values {kind}" for kind, count in counts.items() if count
    )
