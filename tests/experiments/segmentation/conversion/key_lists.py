"""Names and shapes of all arrays in the files of public networks, as the libraries make them."""

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "keys"
NAMES = ("csail_upernet50", "csail_pspnet50", "csail_pspnet18", "mmseg_upernet50", "mmseg_pspnet50")


def key_list(name):
    """Returns shapes by name, from lines such as ``conv1.weight 64x3x3x3``."""
    lines = (FOLDER / f"{name}.txt").read_text().splitlines()
    pairs = (line.split() for line in lines)
    return {key: tuple(map(int, sides.split("x"))) if sides != "-" else () for key, sides in pairs}
