"""Config of CARAFE++ as an upsampler, with the sizes that the paper varies (Tables 11, 13, 14)."""

import dataclasses
from typing import get_args

from carafe_jax import Normalizer
from experiments.engine.config import check, check_at_least


@dataclasses.dataclass(frozen=True)
class CarafeConfig:
    """Sizes of an upsampling CARAFE++; the fields have the same names as in :class:`CARAFE`.

    Attributes:
        compressed_channels: ``C_m`` (Table 11); ``None`` removes the channel compressor.
        encoder_size: ``k_encoder``, odd (Table 13).
        kernel_size: ``k_reassembly``, odd (Table 13).
        normalizer: normaliser of the reassembly kernels (Table 14).
    """

    compressed_channels: int | None = 64
    encoder_size: int = 3
    kernel_size: int = 5
    normalizer: Normalizer = "softmax"

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a field out of range."""
        if self.compressed_channels is not None:
            check_at_least(self, compressed_channels=1)
        for name in ("encoder_size", "kernel_size"):
            value = getattr(self, name)
            check(value >= 1 and value % 2 == 1, name, "odd and at least 1", value)
        choices = get_args(Normalizer)
        check(self.normalizer in choices, "normalizer", f"one of {choices}", self.normalizer)
