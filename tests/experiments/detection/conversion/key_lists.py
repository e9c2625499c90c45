"""Lists of the names and shapes in other libraries' files; ``write_keys.py`` writes them."""

import functools
import re
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "keys"
# From torchvision's names to its names before version 0.13.
OLD_NAMES = {
    r"(backbone\.fpn\.(inner|layer)_blocks\.\d)\.0\.": r"\1.",
    r"rpn\.head\.conv\.0\.0\.": "rpn.head.conv.",
    r"(roi_heads\.mask_head\.)(\d)\.0\.": lambda found: f"{found[1]}mask_fcn{int(found[2]) + 1}.",
}


def renamed(arrays, names):
    def new(name):
        for pattern, replacement in names.items():
            name = re.sub(pattern, replacement, name)
        return name

    return {new(name): value for name, value in arrays.items()}


@functools.cache
def read(name):
    """The shapes by name in a list."""
    lines = (FOLDER / f"{name}.txt").read_text().splitlines()
    pairs = (line.split() for line in lines)
    return {key: () if shape == "-" else tuple(map(int, shape.split("x"))) for key, shape in pairs}
