"""Configs of the inpainting task."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.data.folder import images_digest
from experiments.engine.config import check, check_at_least
from experiments.engine.optimization_config import OptimizerConfig, ScheduleConfig
from experiments.engine.settings import RunConfig, TrainingConfig
from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.inpainting.model.patchgan_config import PatchGANConfig

BUCKET_PERCENT = 10


@dataclasses.dataclass(frozen=True)
class HoleConfig:
    """The holes in the images, in training and in evaluation.

    Attributes:
        shapes: shape of the holes. ``"free_form"``: brush strokes (reference 45). ``"rectangles"``:
            rectangles. ``"both"``: brush strokes or rectangles, with equal probability.
        lowest: smallest area of a hole, in percent of the image; a multiple of ten.
        highest: upper limit of the area of a hole, in percent of the image; a multiple of ten.
            Between the two, each range of ten percent is equally likely, and evaluation reports
            each range separately.
    """

    shapes: Literal["free_form", "rectangles", "both"] = "free_form"
    lowest: int = 10
    highest: int = 60

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` unless the limits are an ascending range of multiples of ten."""
        for name in ("lowest", "highest"):
            value = getattr(self, name)
            fits = 0 <= value <= 90 and value % BUCKET_PERCENT == 0
            check(fits, name, "a multiple of 10 in 0..90 (percent)", value)
        check(self.lowest < self.highest, "lowest", f"below highest, {self.highest}", self.lowest)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The dataset and its holes.

    Attributes:
        source: name of the dataset. ``"pypi"``: the seven photographs that come with the
            dependencies. ``"debian"``: 71 photographs, which
            `python -m experiments.data.composed.debian` fetches. ``"places365_small"``: 1.8 million
            photographs of places (reference 50).
        images: folder of images that replaces ``source``; its subfolders are searched too. One
            image in ten is used for validation.
        images_digest: digest of the files in that folder, computed by :meth:`with_images`. A run
            cannot be resumed with different files.
        crop_side: side of the crops on which networks are trained and evaluated, in pixels.
        holes: the holes in the crops.
    """

    source: Literal["pypi", "debian", "places365_small"] = "pypi"
    images: str | None = None
    images_digest: Annotated[str | None, tyro.conf.Suppress] = None
    crop_side: int = 256
    holes: HoleConfig = dataclasses.field(default_factory=HoleConfig)

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a side too large for the sources, or too small for SSIM."""
        check(11 <= self.crop_side <= 256, "crop_side", "in 11..256", self.crop_side)

    def with_images(self, folder: Path) -> "DataConfig":
        """This config with a folder of images, and the digest of its present files.

        Raises:
            DataError: ``folder`` has no images; see :func:`experiments.data.folder.open_images`.
        """
        folder = folder.resolve()
        return dataclasses.replace(self, images=str(folder), images_digest=images_digest(folder))


@dataclasses.dataclass(frozen=True)
class ReconstructionConfig:
    """Weights of the losses that compare a fill with the original (reference 26, section 3.3).

    Each loss is a sum of absolute values, divided by the number of values in the whole image.

    Attributes:
        hole: weight of the prediction's absolute error in the hole.
        valid: weight of the prediction's absolute error outside the hole. The composed image does
            not show this part of the prediction.
        total_variation: weight of the absolute differences between neighbouring pixels of the
            composed image, where one pixel or both lie in the hole.
    """

    hole: float = 1.0
    valid: float = 0.0
    total_variation: float = 0.0

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for negative weights, or no weight in the hole."""
        check_at_least(self, hole=0, valid=0, total_variation=0)
        check(self.hole > 0, "hole", "positive", self.hole)


@dataclasses.dataclass(frozen=True)
class AdversarialConfig:
    """The discriminator and the adversarial loss.

    Attributes:
        weight: weight of the adversarial loss in the generator's loss; 0 trains without a
            discriminator. The paper does not state a weight; reference 15 has 0.0004, with a
            squared reconstruction error.
        loss: adversarial loss, ``"hinge"`` (reference 45, equations 3 and 4) or ``"least_squares"``
            (Mao et al., "Least Squares Generative Adversarial Networks", equation 9). It is a mean
            over patches, weighted by the fraction of each patch that lies in the hole, because only
            the inpainted region is judged.
        discriminator: sizes of the discriminator.
    """

    weight: float = 0.001
    loss: Literal["hinge", "least_squares"] = "hinge"
    discriminator: PatchGANConfig = dataclasses.field(default_factory=PatchGANConfig)

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a negative weight."""
        check_at_least(self, weight=0)


# Section 5.1 states the batch size, the optimiser and the learning rate, but no number of steps.
PAPER_TRAINING = TrainingConfig(
    batch_size=32,
    optimizer=OptimizerConfig(name="adam", learning_rate=1e-4, b1=0.5, b2=0.9),
    schedule=ScheduleConfig(length=500_000, decay="constant"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InpaintingConfig(RunConfig):
    """Config of one run.

    Attributes:
        model: config of the generator.
        data: config of the dataset and its holes.
        reconstruction: weights of the generator's reconstruction losses.
        adversarial: config of the discriminator and the adversarial loss.
        start_from: folder of a run whose weights initialise the networks, instead of random
            weights. Its networks must be the same, except for ``model.freeze_encoder_norm``.
        ema_decay: decay of an exponential moving average of the generator's parameters and
            BatchNorm averages, which is used in evaluation and prediction; 0 for no average. In
            step ``n`` the decay is at most ``(1 + n) / (10 + n)``.
        training: config of the training of generator and discriminator.
        task: name of the task, stored in the run's folder.
    """

    model: GeneratorConfig = dataclasses.field(default_factory=GeneratorConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    reconstruction: ReconstructionConfig = dataclasses.field(default_factory=ReconstructionConfig)
    adversarial: AdversarialConfig = dataclasses.field(default_factory=AdversarialConfig)
    start_from: str | None = None
    ema_decay: float = 0.0
    training: TrainingConfig = PAPER_TRAINING
    task: Annotated[Literal["inpainting"], tyro.conf.Suppress] = "inpainting"

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a decay out of range."""
        check(0 <= self.ema_decay < 1, "ema_decay", "in [0, 1)", self.ema_decay)
