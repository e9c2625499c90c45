"""Config of the classification task's data."""

import dataclasses
from typing import Literal

from experiments.engine.config import check


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is classified, and how images become squares.

    Attributes:
        source: ``"imagenet2012"``: as tfds prepared it. ``"digits"``: scikit-learn's; fits
            ``image_side=32, eval_resize=32, augmentation="pad_crop", flip=False``.
            ``"cutouts"``: photographed objects on photographs, 96x96, 12 classes.
        image_side: of the squares, in pixels.
        eval_resize: in evaluation, the shorter side before the central crop.
        augmentation: ``"inception"``: a random share of the area at a random aspect ratio.
            ``"pad_crop"``: the evaluation's square moved by up to an eighth of its side.
        smallest_area: of the inception crop, as a share of the image.
        flip: whether half of the training images are mirrored.
        interpolation: with which images are scaled, in training and in evaluation.
        photographs: the backgrounds of ``"cutouts"``. ``"debian"``: 71 photographs. ``"pypi"``:
            seven.
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
        """Raises ``ConfigError`` for sizes that no crop can have."""
        side, resize = self.image_side, self.eval_resize
        check(side >= 1, "image_side", "at least 1", side)
        check(resize >= side, "eval_resize", f"at least image_side ({side})", resize)
        check(0 < self.smallest_area <= 1, "smallest_area", "in (0, 1]", self.smallest_area)
