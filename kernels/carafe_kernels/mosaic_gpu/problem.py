"""The description of the arrays that a kernel is compiled for."""

import dataclasses

import numpy as np

from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu.arrays import TMA_ALIGNMENT, round_up

WORD = 4  # bytes


@dataclasses.dataclass(frozen=True)
class Problem:
    """The arrays that a kernel is compiled for.

    Args:
        geometry: geometry of the reassembly, in lowest terms.
        batch: number of maps.
        size: ``(H, W)`` of the source map.
        channels: number of channels of all groups together.
        dtype: dtype of the maps.
        cells_dtype: dtype in which weights or logits are copied.
        normalizer: normaliser of the logits; ``None`` for weights.
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
        """Number of channels of the maps in a word of 32 bits."""
        return WORD // self.dtype.itemsize

    @property
    def word_dtype(self) -> np.dtype:
        """The dtype of the 32-bit words in which the kernels copy maps."""
        return self.dtype if self.channels_of_a_word == 1 else np.dtype(np.uint32)

    @property
    def parts(self) -> int:
        """Number of parts of a cell: its rows of output phases for weights, 1 for logits."""
        return self.geometry.up if self.normalizer is None else 1

    def padded_group_channels(self, channels: int) -> int:
        """Number of channels of a group after padding, for steps of ``channels`` channels.

        It fills a multiple of 16 bytes. With several groups it is a multiple of ``channels``: a
        step that reaches beyond its group would read or overwrite the next group.
        """
        alone = self.geometry.groups == 1
        multiple = TMA_ALIGNMENT // self.dtype.itemsize if alone else channels
        return round_up(self.group_channels, multiple)

    def pads_groups(self, group_channels: int) -> bool:
        """Whether XLA copies the maps, to pad each of several groups to ``group_channels``."""
        return self.geometry.groups > 1 and group_channels > self.group_channels
