"""Config of the classification task's data."""

import dataclasses
from typing import Literal

from experiments.engine.config import check


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The dataset that is classified, and how its images are cropped to squares.

    Attributes:
        source: name of the dataset. ``"imagenet2012"``: ImageNet as tfds prepares it.
            ``"digits"``: digits of scikit-learn, for ``image_side=32, eval_resize=32,
            augmentation="pad_crop", flip=False``. ``"cutouts"``: photographed objects pasted on
            photographs, 96x96, 12 classes.
        image_side: side of the square images, in pixels.
        eval_resize: length of the shorter side before the central crop in evaluation, in pixels.
        augmentation: random crop in training. ``"inception"``: a random share of the area with a
            random aspect ratio. ``"pad_crop"``: the square of the evaluation, moved by up to an
            eighth of its side.
        smallest_area: smallest area of the inception crop, as a share of the image.
        flip: whether to mirror half of the training images.
        interpolation: filter for scaling images, in training and evaluation.
        photographs: backgrounds of ``"cutouts"``. ``"debian"``: 71 photographs. ``"pypi"``: seven
            photographs.
    """

    source: Literal["imagenet2012", "digits", "cutouts"] = "imagenet2012"
    image_side: int = 224
    eval_resize: int = 256
    augmentation: Literal["inception", "pad_crop"] = "inception"
    smallest_area: float = 0.08
    flip: bool = True
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    photographs: Literal["pypi", "debian"] = "debian"

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for sizes of impossible crops."""
        side, resize = self.image_side, self.eval_resize
        check(side >= 1, "image_side", "at least 1", side)
        check(resize >= side, "eval_resize", f"at least image_side ({side})", resize)
        check(0 < self.smallest_area <= 1, "smallest_area", "in (0, 1]", self.smallest_area)
