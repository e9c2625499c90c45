"""Rows of an array that a model uses, in an order of its own."""

import dataclasses

import numpy as np

from experiments.weights.arrangements import VECTOR, Arrangement


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some rows of the array in a file, in another order; a row is an output of a layer.

    Args:
        rows: for each output of the model, the row in the file.
        count: number of rows in the file.
        arrangement: how the values of the chosen rows are arranged.
        missing: value of the rows that the model lacks, in a new file.
    """

    rows: tuple[int, ...]
    count: int
    arrangement: Arrangement = VECTOR
    missing: float = 0.0

    def to_model(self, array: np.ndarray) -> np.ndarray:
        return self.arrangement.to_model(array[list(self.rows)])

    def to_file(self, array: np.ndarray) -> np.ndarray:
        chosen = self.arrangement.to_file(array)
        shape = (self.count, *chosen.shape[1:])
        result = np.full(shape, self.missing, array.dtype)
        result[list(self.rows)] = chosen
        return result
