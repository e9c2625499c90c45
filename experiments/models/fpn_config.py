"""Config of a feature pyramid network."""

import dataclasses
from typing import Literal, get_args

from experiments.engine.config import check, check_at_least
from experiments.resamplers.carafe_config import CarafeConfig
from experiments.resamplers.methods import Upsampler

Kind = Literal["fpn", "fpn_carafe"]


@dataclasses.dataclass(frozen=True)
class FPNConfig:
    """Sizes and choices of an :class:`experiments.models.fpn.FPN`.

    Attributes:
        kind: ``"fpn"``: the pyramid of the paper. ``"fpn_carafe"``: the pyramid of mmdet's
            checkpoints.
        upsampler: upsampler in the top-down pathway (section 4.1, Table 4).
        channels: channels of each level.
        carafe: sizes of CARAFE++ as the upsampler (Tables 11, 13 and 14).
        extra_level: whether the pyramid has P6, one level above the last map.
    """

    kind: Kind = "fpn"
    upsampler: Upsampler = "nearest"
    channels: int = 256
    carafe: CarafeConfig = dataclasses.field(default_factory=CarafeConfig)
    extra_level: bool = True

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a field out of range."""
        for name, choice in {"kind": Kind, "upsampler": Upsampler}.items():
            value = getattr(self, name)
            check(value in get_args(choice), name, f"one of {get_args(choice)}", value)
        check_at_least(self, channels=1)
