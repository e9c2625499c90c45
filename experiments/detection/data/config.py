"""Config of the detection task's data."""

import dataclasses
from typing import Literal

from experiments.data.composed.scenes_config import ScenesConfig
from experiments.engine.config import check, check_at_least

Split = Literal["train", "validation", "test"]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is detected, and how images and objects become arrays of a fixed size.

    Attributes:
        source: ``"coco"``: COCO as `python -m experiments.data.coco` prepared it, with masks.
            ``"coco_boxes"``: as tfds did, without. ``"scenes"``: photographed objects on
            photographs, 12 classes, with masks.
        shorter: length to which an image's shorter side is scaled, in pixels,
        longer: unless its longer side would be longer than this.
        flip: whether half of the training images are mirrored.
        max_objects: rows for the objects of a training image.
        mask_side: rows and columns to which, in training, an object's mask is resampled after it
            is cropped to the object's box; None where masks are not learned.
        scenes: how ``"scenes"`` are composed.
    """

    source: Literal["coco", "coco_boxes", "scenes"] = "coco"
    shorter: int = 800
    longer: int = 1333
    flip: bool = True
    max_objects: int = 100
    mask_side: int | None = None
    scenes: ScenesConfig = dataclasses.field(default_factory=ScenesConfig)

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for sizes that no image can have, and masks that are not there."""
        check_at_least(self, shorter=1, longer=self.shorter, max_objects=1)
        side = self.mask_side
        check(side is None or side >= 1, "mask_side", "at least 1, or None", side)
        if self.source == "coco_boxes":
            check(side is None, "mask_side", "None for coco_boxes, which has no masks", side)
