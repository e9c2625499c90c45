"""The dtype of sums."""

import numpy as np


def accumulator_dtype(*dtypes: np.dtype) -> np.dtype:
    """The dtype of sums of arrays of floats: float64 if one of them is float64, else float32.

    ``jnp.promote_types`` gives the same, except under ``jax_numpy_dtype_promotion="strict"``, where
    it raises an error for dtypes that differ.
    """
    return np.dtype(np.float64 if np.dtype(np.float64) in dtypes else np.float32)
