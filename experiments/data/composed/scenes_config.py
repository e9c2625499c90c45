"""How scenes are composed."""

import dataclasses
from typing import Literal

from experiments.engine.config import check, check_at_least


@dataclasses.dataclass(frozen=True)
class ScenesConfig:
    """How scenes are composed.

    Attributes:
        photographs: ``"pypi"``: those of the seven photographs that come with the dependencies
            which show no object of a class. ``"debian"``: those of 71.
        longer_side: of the images, in pixels; the shorter one is three quarters of it. Seven in
            ten are landscapes, the others portraits.
        training_images: number of images to train on.
        validation_images: number of images to validate on.
        smallest: longer side of an object, in pixels; sizes are even in their logarithm.
        largest: longer side of an object, in pixels; at most the images' shorter side.
        max_objects: the largest number of objects in an image; one that finds no place is left out.
    """

    photographs: Literal["pypi", "debian"] = "debian"
    longer_side: int = 640
    training_images: int = 4_000
    validation_images: int = 500
    smallest: int = 16
    largest: int = 400
    max_objects: int = 8

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a number below 1, and where objects do not fit into images."""
        check_at_least(self, longer_side=1, training_images=1, validation_images=1, max_objects=1)
        check(
            8 <= self.smallest <= self.largest <= self.shorter_side,
            "smallest and largest",
            f"in 8..{self.shorter_side} (pixels) and in this order",
            (self.smallest, self.largest),
        )

    @property
    def shorter_side(self) -> int:
        """Of the images, in pixels."""
        return self.longer_side * 3 // 4

    @property
    def name(self) -> str:
        """Of the data set; other data have another name, by which tfds tells what is there."""
        return "-".join(["scenes", *map(str, dataclasses.astuple(self))])
