"""Config of the detection task's data."""

import dataclasses
from typing import Literal, get_args

from experiments.data.composed.scenes_config import ScenesConfig
from experiments.engine.config import check, check_at_least

Rounding = Literal["half_up", "floor"]
Split = Literal["train", "validation", "test"]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The dataset, and the fixed sizes of its image and object arrays.

    Attributes:
        source: name of the dataset. ``"coco"``: COCO with masks, prepared by
            `python -m experiments.data.coco`. ``"coco_boxes"``: COCO without masks, prepared by
            tfds. ``"scenes"``: photographed objects on photographs, 12 classes, with masks.
        shorter: length in pixels to which the shorter side of an image is scaled, unless the
            longer side would exceed its limit.
        longer: limit of the length of the longer side of a scaled image, in pixels.
        rounding: rounding of the sides of a scaled image. ``"half_up"``: to the nearest pixel, as
            in detectron2 and mmdet 2. ``"floor"``: down, as in torchvision.
        pad_multiple: multiple of 32 to which the sides of an input are padded, in pixels. It is 32
            in torchvision, detectron2 and mmdet 2, and 64 in mmdet's configs of FPN_CARAFE.
        flip: whether half of the training images are mirrored.
        max_objects: largest number of objects in a training image.
        mask_side: side in pixels of the object masks in training. Each mask is cropped to the
            object's box and resampled to this size. None if masks are not learned.
        scenes: config of the dataset ``"scenes"``.
    """

    source: Literal["coco", "coco_boxes", "scenes"] = "coco"
    shorter: int = 800
    longer: int = 1333
    rounding: Rounding = "half_up"
    pad_multiple: int = 32
    flip: bool = True
    max_objects: int = 100
    mask_side: int | None = None
    scenes: ScenesConfig = dataclasses.field(default_factory=ScenesConfig)

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for impossible sizes, or masks that the dataset does not have."""
        check_at_least(self, shorter=1, longer=self.shorter, max_objects=1)
        roundings = get_args(Rounding)
        check(self.rounding in roundings, "rounding", f"one of {roundings}", self.rounding)
        multiple = self.pad_multiple
        expected = "a multiple of 32, the stride of C5"
        check(multiple > 0 and multiple % 32 == 0, "pad_multiple", expected, multiple)
        side = self.mask_side
        check(side is None or side >= 1, "mask_side", "at least 1, or None", side)
        if self.source == "coco_boxes":
            check(side is None, "mask_side", "None for coco_boxes, which has no masks", side)
