"""The plan of a call: everything static that a reassembly and its derivatives share."""

import dataclasses
from collections.abc import Hashable
from typing import Literal

import jax
import numpy as np

from carafe_kernels.accumulation import accumulator_dtype
from carafe_kernels.geometry import Dimension, Geometry, Resize
from carafe_kernels.normalizers import normalized_dtype

Slot = Literal["x", "weights", "logits", "y"]
type Results = tuple[Slot, ...]
type Operands = dict[Slot, jax.Array]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The static data that one reassembly and all its derivatives share.

    Args:
        geometry: geometry of the reassembly.
        size: ``(H, W)`` of the feature map ``x``.
        x_dtype: dtype of the maps ``x`` and ``y``.
        weights_dtype: dtype of the weights or logits.
        normalizer: normaliser for contractions of logits; ``None`` for contractions of weights.
        implementation: name of the implementation.
        automatic: whether the implementation was chosen automatically. Then a program that is
            lowered for a platform that the implementation does not serve runs XLA instead;
            otherwise lowering it is an error.
        settings: settings of the implementation when the call was traced.
        resize: axes of a reassembly to any size; ``None`` if the output is the whole output of
            ``geometry``. Such a plan is for contractions of weights. ``geometry`` has the scale if
            the output is a crop of its output; otherwise it has ``up = down = 1``.
    """

    geometry: Geometry
    size: tuple[Dimension, Dimension]
    x_dtype: np.dtype
    weights_dtype: np.dtype
    normalizer: str | None
    implementation: str
    automatic: bool = False
    settings: Hashable = None
    resize: Resize | None = None

    @property
    def of_weights(self) -> "Plan":
        """The plan for contractions of the weights that the normaliser returns."""
        dtype = normalized_dtype(self.weights_dtype)
        return dataclasses.replace(self, normalizer=None, weights_dtype=dtype)

    @property
    def accumulator(self) -> np.dtype:
        """The dtype of sums."""
        return accumulator_dtype(self.x_dtype, self.weights_dtype)

    @property
    def lists_centres(self) -> bool:
        """Whether ``resize`` has the centres of the outputs, and not ``geometry``."""
        return self.resize is not None and not self.resize.crops(self.geometry)

    @property
    def output_size(self) -> tuple[Dimension, Dimension]:
        """Height and width of the output ``y``."""
        if self.resize is not None:
            return self.resize.size
        height, width = map(self.geometry.output_size, self.size)
        return height, width

    def dtype(self, slot: Slot) -> np.dtype:
        """The dtype of an operand or result."""
        return self.x_dtype if slot in ("x", "y") else self.weights_dtype

    def shape(self, slot: Slot, channels: int) -> tuple[Dimension, ...]:
        """The shape ``[H, W, N]`` of an operand or result, for maps with ``channels`` channels."""
        match slot:
            case "x":
                return (*self.size, channels)
            case "y":
                return (*self.output_size, channels)
            case "weights":
                return (*self.output_size, self.geometry.weight_channels)
            case "logits":
                return (*map(self.geometry.cells, self.size), self.geometry.logit_channels)
