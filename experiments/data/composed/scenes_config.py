"""Config of composed scenes."""

import dataclasses
from typing import Literal

from experiments.engine.config import check, check_at_least


@dataclasses.dataclass(frozen=True)
class ScenesConfig:
    """How scenes are composed.

    Attributes:
        photographs: source of the backgrounds; photographs that show an object of a class are left
            out. ``"pypi"``: seven from the dependencies. ``"debian"``: the set of 71.
        longer_side: longer side of the images, in pixels; the shorter side is three quarters of it.
            Seven images in ten are landscapes, the others portraits.
        training_images: number of training images.
        validation_images: number of validation images.
        smallest: lower limit of the longer side of an object, in pixels; the logarithm of the size
            is uniformly distributed.
        largest: upper limit of the longer side of an object, in pixels; at most the shorter side of
            the images.
        max_objects: the largest number of objects in an image; an object without a free position is
            left out.
    """

    photographs: Literal["pypi", "debian"] = "debian"
    longer_side: int = 640
    training_images: int = 4_000
    validation_images: int = 500
    smallest: int = 16
    largest: int = 400
    max_objects: int = 8

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a number below 1, or objects that do not fit into images."""
        check_at_least(self, longer_side=1, training_images=1, validation_images=1, max_objects=1)
        check(
            8 <= self.smallest <= self.largest <= self.shorter_side,
            "smallest and largest",
            f"in 8..{self.shorter_side} (pixels) and in this order",
            (self.smallest, self.largest),
        )

    @property
    def shorter_side(self) -> int:
        """The shorter side of the images, in pixels."""
        return self.longer_side * 3 // 4

    @property
    def name(self) -> str:
        """Name of the dataset, by which tfds recognises a dataset that was built before."""
        return "-".join(["scenes", *map(str, dataclasses.astuple(self))])
