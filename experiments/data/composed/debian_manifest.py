"""The photographs that are taken from each Debian package."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Package:
    """A Debian package, and the pictures that are taken from it.

    Attributes:
        name: name of the package.
        files: path inside the package of each picture, by its file name in the cache.
    """

    name: str
    files: Mapping[str, str]


def _by_file_name(folder: str, *paths: str) -> dict[str, str]:
    return {PurePosixPath(path).name: f"{folder}/{path}" for path in paths}


# Chosen by eye. Excluded: drawings, renderings, paintings, other sizes of the same photograph, and
# second views of the same scene, which would leak from training into validation.
PACKAGES = (
    Package(
        "lomiri-wallpapers-16.04",
        _by_file_name(
            "usr/share/backgrounds",
            "Bridge_by_Sander_Klootwijk.jpg",
            "Dragonfly_by_Bolly.jpg",
            "Picture_0B_by_freespace.jpg",
            "Picture_1A_by_freespace.jpg",
            "Wine_by_Jakkub_Mede.jpg",
            "aitzgorri_by_Aitzol_Berasategi.jpg",
            "free_by_Peter_Nerlich.jpg",
            "friends_by_Aitzol_Berasategi.jpg",
            "greentock_by_Peter_Nerlich.jpg",
            "life_by_Aitzol_Berasategi.jpg",
            "picosdeeuropa_by_Aitzol_Berasategi.jpg",
            "seeding_by_Clements_Engelhardt.jpg",
            "sunset_by_Aitzol_Berasategi.jpg",
        ),
    ),
    Package(
        "lomiri-wallpapers-20.04",
        _by_file_name("usr/share/backgrounds", "Kleiber_by_Lukas_Baubkus.jpg"),
    ),
    Package(
        "lxqt-themes",
        _by_file_name(
            "usr/share/lxqt/wallpapers",
            "Butterfly-Kenneth-Wimer.jpg",
            "Valendas.png",
            "after-the-rain.jpg",
            "appleflower.png",
            "beam.png",
            "butterfly.png",
            "cloud.png",
            "drop.png",
            "flowers.png",
            "fog.jpg",
            "this-is-not-windows.jpg",
        ),
    ),
    Package(
        "mate-backgrounds",
        _by_file_name(
            "usr/share/backgrounds/mate/nature",
            "Aqua.jpg",
            "Blinds.jpg",
            "Dune.jpg",
            "FreshFlower.jpg",
            "Garden.jpg",
            "GreenMeadow.jpg",
            "LadyBird.jpg",
            "RainDrops.jpg",
            "Storm.jpg",
            "TwoWings.jpg",
            "Wood.jpg",
            "YellowFlower.jpg",
        ),
    ),
    Package(
        "plasma-workspace-wallpapers",
        {
            f"{title}.jpg": f"usr/share/wallpapers/{title}/contents/images/2560x1600.jpg"
            for title in (
                "BytheWater",
                "ColdRipple",
                "ColorfulCups",
                "DarkestHour",
                "EveningGlow",
                "FallenLeaf",
                "Grey",
                "Kite",
                "OneStandsOut",
                "Path",
                "summer_1am",
            )
        },
    ),
    Package(
        "opencv-doc",
        _by_file_name(
            "usr/share/doc/opencv-doc/examples",
            "alphamat/input_images/plant.jpg",
            "data/aloeL.jpg",
            "data/baboon.jpg",
            "data/board.jpg",
            "data/building.jpg",
            "data/butterfly.jpg",
            "data/fruits.jpg",
            "data/graf1.png",
            "data/home.jpg",
            "data/leuvenA.jpg",
            "data/rubberwhale1.png",
            "data/squirrel_cls.jpg",
            "text/scenetext01.jpg",
            "text/scenetext04.jpg",
            "text/scenetext05.jpg",
            "text/scenetext06.jpg",
        ),
    ),
)
