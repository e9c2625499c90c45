"""Rows of an array that a model uses, in an order of its own."""

import dataclasses

import numpy as np

from experiments.weights.arrangements import VECTOR, Arrangement


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some rows of an array in the file, in another order; a row is an output of a layer.

    Args:
        rows: for each row of the model, the row in the file.
        count: number of rows in the file.
        arrangement: how the values of the chosen rows are arranged.
    """

    rows: tuple[int, ...]
    count: int
    arrangement: Arrangement = VECTOR

    def to_model(self, array: np.ndarray) -> np.ndarray:
        return self.arrangement.to_model(array[list(self.rows)])
