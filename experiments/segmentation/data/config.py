"""Config of the segmentation task's data."""

import dataclasses
import math
from typing import Annotated, Literal

import tyro

from experiments.data.classes import num_classes
from experiments.data.composed.scenes_config import ScenesConfig
from experiments.engine.config import check, check_at_least

Split = Literal["train", "validation"]


@dataclasses.dataclass(frozen=True)
class OwnFolders:
    """A user's own images and labels.

    Attributes:
        images: folder of the images. If it has subfolders ``train`` and ``val``, they are the two
            splits, and other subfolders beside them are ignored; otherwise one image in ten is for
            validation. Images may be in subfolders.
        labels: folder of the labels: grey or palette PNG files with a class number for each pixel.
            A label has the path of its image, except for the suffixes.
        class_list: text file with the name of a class in each line, in the order of their numbers.
        image_suffix: text at the end of the names of images, before the dot, that is not in the
            names of labels, such as ``_leftImg8bit``; images without it are ignored.
        label_suffix: text at the end of the names of labels, before the dot, that is not in the
            names of images, such as ``_gtFine_labelTrainIds``; labels without it are ignored.
        unlabelled: value of pixels without a class. 255: the first class has the number 0. 0: the
            first class has the number 1, as in ADE20K.
        digest: digest of the labels, and of the names and sizes of the images, computed when a run
            starts. A run cannot be resumed with different files.
        classes: number of classes in ``class_list``, read when a run starts.
    """

    images: str | None = None
    labels: str | None = None
    class_list: str | None = None
    image_suffix: str = ""
    label_suffix: str = ""
    unlabelled: Literal[0, 255] = 255
    digest: Annotated[str | None, tyro.conf.Suppress] = None
    classes: Annotated[int | None, tyro.conf.Suppress] = None

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for some of the paths without the others, or settings alone."""
        paths = ("images", "labels", "class_list")
        for name in paths:
            check(getattr(self, name) != "", name, "a path", "")
        given = [name for name in paths if getattr(self, name) is not None]
        expected = "given together with each other"
        check(len(given) in (0, 3), "images, labels and class_list", expected, given)
        for name, unused in {"image_suffix": "", "label_suffix": "", "unlabelled": 255}.items():
            value = getattr(self, name)
            check(bool(given) or value == unused, name, f"{unused!r} without images", value)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The dataset, and the sizes of its images.

    All images of a training batch have one shape. ``aspects`` and ``shorter_sides`` bound the
    number of shapes, and so the number of compilations; see :mod:`.shapes`.

    Attributes:
        source: name of the dataset. ``"ade20k"``: ADE20K with 150 classes (references 51, 52),
            prepared by `python -m experiments.data.ade20k`. ``"scenes"``: photographed objects of
            12 classes on photographs, which are the class "other"; built when first needed, from
            the files that `python -m experiments.data.composed.debian --cutouts` fetches.
        own: a user's own images and labels, which replace ``source``.
        scenes: config of the dataset ``"scenes"``.
        augmentation: view of an image in training. ``"resize"``: the whole image, with its shorter
            side scaled to one of ``shorter_sides`` (section 5.1). ``"crop"``: a crop of an image
            that is scaled at random, as in mmseg.
        shorter_sides: lengths of the shorter side in training, in pixels, ascending; one is drawn
            for each batch. For the view ``"resize"``.
        longer: limit of the length of the longer side, in pixels, for the view ``"resize"`` and in
            evaluation.
        aspects: aspect ratios, longer to shorter side, of the shapes in training, ascending. An
            image has the first shape into which it fits; an image with a greater aspect ratio than
            the last is scaled down further.
        crop_side: side of the crops in pixels, for the view ``"crop"``.
        crop_shorter: length in pixels to which the shorter side is scaled before ``crop_scales``
            apply, for the view ``"crop"``. The longer side is limited to four times this length.
        crop_scales: lower and upper limit of the random factor of both sides, for the view
            ``"crop"``.
        crop_share: the largest share of a crop's labelled pixels that one class may have; after ten
            rejected crops the next one is used anyway. For the view ``"crop"``.
        distort: whether brightness, contrast, saturation and hue of training images are changed at
            random, as in mmseg.
        flip: whether half of the training images are mirrored.
        test_shorter: length in pixels to which the shorter side is scaled in evaluation and
            prediction, unless the longer side would exceed its limit.
        cost_side: side in pixels of the square image for which tables give the cost of the network.
    """

    source: Literal["ade20k", "scenes"] = "ade20k"
    own: OwnFolders = dataclasses.field(default_factory=OwnFolders)
    scenes: ScenesConfig = dataclasses.field(default_factory=ScenesConfig)
    augmentation: Literal["resize", "crop"] = "resize"
    shorter_sides: tuple[int, ...] = (300, 375, 450, 525, 600)
    longer: int = 1200
    aspects: tuple[float, ...] = (4 / 3, 2.0, 4.0)
    crop_side: int = 512
    crop_shorter: int = 512
    crop_scales: tuple[float, ...] = (0.5, 2.0)
    crop_share: float = 0.75
    distort: bool = False
    flip: bool = True
    test_shorter: int = 450
    cost_side: int = 512

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for impossible sizes."""
        sides = self.shorter_sides
        fits = list(sides) == sorted({*sides}) and bool(sides) and sides[0] >= 1
        check(fits, "shorter_sides", "one or more, ascending, at least 1", sides)
        check_at_least(self, longer=max(*sides, self.test_shorter), test_shorter=1)
        check_at_least(self, crop_side=1, crop_shorter=1, cost_side=1)
        aspects = self.aspects
        ascending = list(aspects) == sorted({*aspects}) and bool(aspects)
        fits = ascending and aspects[0] >= 1 and math.isfinite(aspects[-1])
        check(fits, "aspects", "one or more, ascending, finite, at least 1", aspects)
        scales = self.crop_scales
        fits = len(scales) == 2 and 0 < scales[0] <= scales[1] < math.inf
        check(fits, "crop_scales", "a positive lower and upper limit", scales)
        check(0 < self.crop_share <= 1, "crop_share", "in (0, 1]", self.crop_share)

    @property
    def classes(self) -> int:
        """The number of classes.

        Raises:
            ConfigError: the number of a user's own classes has not been read yet.
        """
        if self.own.images is None:
            return num_classes("label_scenes" if self.source == "scenes" else self.source)
        check(self.own.classes is not None, "classes", "read from class_list", None)
        assert self.own.classes is not None
        return self.own.classes
