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
    """What is cut out of the images, to train and to evaluate.

    Attributes:
        shapes: ``"free_form"``: brush strokes (reference 45); ``"rectangles"``; or ``"both"``, one
            or the other by chance.
        lowest: share of the image that the smallest holes take, in percent; a multiple of ten.
        highest: share that the largest holes stay below, in percent; a multiple of ten. Every ten
            percent between the two are as likely, and an evaluation reports them one by one.
    """

    shapes: Literal["free_form", "rectangles", "both"] = "free_form"
    lowest: int = 10
    highest: int = 60

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for shares that are no range of tens of percent."""
        for name in ("lowest", "highest"):
            value = getattr(self, name)
            fits = 0 <= value <= 90 and value % BUCKET_PERCENT == 0
            check(fits, name, "a multiple of 10 in 0..90 (percent)", value)
        check(self.lowest < self.highest, "lowest", f"below highest, {self.highest}", self.lowest)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is filled.

    Attributes:
        source: ``"pypi"``: the seven photographs that come with the dependencies. ``"debian"``: 71
            photographs, which `python -m experiments.data.composed.debian` fetches.
            ``"places365_small"``: 1.8 million photographs of places (reference 50).
        images: a folder of images, searched with its subfolders, that takes the place of
            ``source``; one image in ten is kept to evaluate.
        images_digest: of that folder's files, which :meth:`with_images` computes: with other files
            a run would be another.
        crop_side: side of the images that are trained on and evaluated, in pixels.
        holes: what is cut out of them.
    """

    source: Literal["pypi", "debian", "places365_small"] = "pypi"
    images: str | None = None
    images_digest: Annotated[str | None, tyro.conf.Suppress] = None
    crop_side: int = 256
    holes: HoleConfig = dataclasses.field(default_factory=HoleConfig)

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a side that the sources do not have, or SSIM no window for."""
        check(11 <= self.crop_side <= 256, "crop_side", "in 11..256", self.crop_side)

    def with_images(self, folder: Path) -> "DataConfig":
        """The same for a folder of images, as it is now.

        Raises:
            DataError: there are no images in it; see :func:`experiments.data.folder.open_images`.
        """
        folder = folder.resolve()
        return dataclasses.replace(self, images=str(folder), images_digest=images_digest(folder))


@dataclasses.dataclass(frozen=True)
class ReconstructionConfig:
    """Weights of what compares a fill with the original (reference 26, section 3.3).

    Each term is a sum over what it names, divided by the number of values of the whole image.

    Attributes:
        hole: of the absolute error in the hole.
        valid: of the absolute error outside it, of what the network predicts there though the
            composed image does not show it.
        total_variation: of the absolute difference of neighbouring pixels of the composed image of
            which one or both lie in the hole.
    """

    hole: float = 1.0
    valid: float = 0.0
    total_variation: float = 0.0

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for weights that cannot be trained with."""
        check_at_least(self, hole=0, valid=0, total_variation=0)
        check(self.hole > 0, "hole", "positive", self.hole)


@dataclasses.dataclass(frozen=True)
class AdversarialConfig:
    """The discriminator, and what it adds to the generator's loss.

    Attributes:
        weight: of the adversarial loss beside those of :class:`ReconstructionConfig`; at 0 there
            is no discriminator. The paper gives none; reference 15 has 0.0004 beside a squared
            error.
        loss: ``"hinge"`` (reference 45, equations 3 and 4) or ``"least_squares"`` (Mao et al.,
            "Least Squares Generative Adversarial Networks", equation 9). Means over the patches,
            each weighted by how much of it is hole: what is judged is the inpainted region.
        discriminator: its sizes.
    """

    weight: float = 0.001
    loss: Literal["hinge", "least_squares"] = "hinge"
    discriminator: PatchGANConfig = dataclasses.field(default_factory=PatchGANConfig)

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a negative weight."""
        check_at_least(self, weight=0)


# Section 5.1 gives batch size, optimiser and rate, and says nothing of the number of steps.
PAPER_TRAINING = TrainingConfig(
    batch_size=32,
    optimizer=OptimizerConfig(name="adam", learning_rate=1e-4, b1=0.5, b2=0.9),
    schedule=ScheduleConfig(length=500_000, decay="constant"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InpaintingConfig(RunConfig):
    """One run.

    Attributes:
        model: the generator.
        data: what is filled.
        reconstruction: what the generator is trained for.
        adversarial: the discriminator, and its part in the loss.
        start_from: folder of a run whose networks this one starts with, rather than at random.
            Its networks have to be the same, but for ``model.freeze_encoder_norm``.
        ema_decay: of an exponential moving average of the generator, parameters and BatchNorm's
            averages, which then takes its place in evaluation and prediction; 0 for none. In step
            ``n`` it is at most ``(1 + n) / (10 + n)``.
        training: how generator and discriminator are trained.
        task: names the task in the run's folder.
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
        """Raises ``ConfigError`` for a decay that averages nothing, or forever."""
        check(0 <= self.ema_decay < 1, "ema_decay", "in [0, 1)", self.ema_decay)
