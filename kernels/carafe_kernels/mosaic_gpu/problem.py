"""What a kernel is compiled for."""

import dataclasses

import numpy as np

from carafe_kernels.geometry import Geometry

WORD = 4  # bytes


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a kernel is compiled for.

    Args:
        geometry: in lowest terms.
        batch: number of maps.
        size: ``(H, W)`` of the source map.
        channels: of all groups together.
        dtype: of the maps.
        cells_dtype: of the weights or logits.
        normalizer: what turns logits into weights; ``None`` where weights are given.
    """

    geometry: Geometry
    batch: int
    size: tuple[int, int]
    channels: int
    dtype: np.dtype
    cells_dtype: np.dtype
    normalizer: str | None = None

    @property
    def cells(self) -> tuple[int, int]:
        height, width = map(self.geometry.cells, self.size)
        return height, width

    @property
    def output_size(self) -> tuple[int, int]:
        height, width = map(self.geometry.output_size, self.size)
        return height, width

    @property
    def group_channels(self) -> int:
        return self.channels // self.geometry.groups

    @property
    def channels_of_a_word(self) -> int:
        """Channels of the maps that a word of 32 bits holds."""
        return WORD // self.dtype.itemsize

    @property
    def word_dtype(self) -> np.dtype:
        """Of the maps as the kernels copy them: words of 32 bits."""
        return self.dtype if self.channels_of_a_word == 1 else np.dtype(np.uint32)

    @property
    def parts(self) -> int:
        """Parts of a cell in memory: its rows of output phases for weights, all for logits."""
        return self.geometry.up if self.normalizer is None else 1
