"""Background photographs of scenes, without objects that would have to be annotated."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from experiments.data.composed.crops import scaled_size, split_by_photograph
from experiments.data.composed.photographs import Photograph

# The shorter side of the photographs from which crops are taken, relative to the side of a scene.
_RELATIVE_SHORTER_SIDE = 1.5

# Chosen by eye: photographs that show objects of a class, or something similar.
_SHOWING_CLASSES = frozenset(
    {
        "lomiri-wallpapers-16.04-Dragonfly_by_Bolly",
        "lomiri-wallpapers-16.04-Picture_0B_by_freespace",
        "lomiri-wallpapers-16.04-Picture_1A_by_freespace",
        "lomiri-wallpapers-16.04-Wine_by_Jakkub_Mede",
        "lomiri-wallpapers-16.04-free_by_Peter_Nerlich",
        "lomiri-wallpapers-16.04-seeding_by_Clements_Engelhardt",
        "lomiri-wallpapers-20.04-Kleiber_by_Lukas_Baubkus",
        "lxqt-themes-Butterfly-Kenneth-Wimer",
        "lxqt-themes-appleflower",
        "lxqt-themes-butterfly",
        "lxqt-themes-flowers",
        "mate-backgrounds-FreshFlower",
        "mate-backgrounds-Garden",
        "mate-backgrounds-LadyBird",
        "mate-backgrounds-TwoWings",
        "mate-backgrounds-YellowFlower",
        "opencv-doc-butterfly",
        "opencv-doc-fruits",
        "opencv-doc-home",
        "opencv-doc-rubberwhale1",
        "opencv-doc-scenetext01",
        "opencv-doc-scenetext05",
        "opencv-doc-scenetext06",
        "plasma-workspace-wallpapers-EveningGlow",
        "skimage-motorcycle_left",
        "sklearn-flower",
    }
)


def backgrounds(
    photographs: Sequence[Photograph],
) -> tuple[list[Photograph], list[Photograph]]:
    """Splits into training and validation, without photographs that show objects of a class."""
    # Split before filtering, so that photographs are in the same split in all datasets.
    train, validation = (
        [photograph for photograph in part if photograph.name not in _SHOWING_CLASSES]
        for part in split_by_photograph(photographs)
    )
    return train, validation


def scaled_pixels(photograph: Photograph, longer_side: int) -> UInt8[np.ndarray, "_ _ 3"]:
    """Reads a photograph, scaled to a shorter side of one and a half times ``longer_side`` pixels.

    A smaller photograph is not enlarged, unless its shorter side is below ``longer_side``.
    """
    with Image.open(photograph.path) as opened:
        image = opened.convert("RGB")
    size = scaled_size(image.size, longer_side, round(_RELATIVE_SHORTER_SIDE * longer_side))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))
