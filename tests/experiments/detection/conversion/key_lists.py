"""Lists of the names and shapes in other libraries' files; ``write_keys.py`` writes them.

The lists of torchvision come from its own models. The lists of mmdet and detectron2 come from the
twins in plain PyTorch. They show when a name changes here, but an error in a twin is in its list,
too. ``COUNTS`` has numbers from other sources.
"""

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

# Numbers that do not come from the lists: arrays, counters among them, and parameters. Those of
# mmdet were counted for the published models, those of torchvision and detectron2 for R50-FPN
# without counters; both libraries have the same layers.
COUNTS = {
    "mmdet_faster_carafe": (368, 53, 47_358_576),
    "mmdet_mask_carafe": (382, 53, 49_813_604),
    # 13 blocks of Res-3 to Res-5 have a kernel and a bias more than in `mmdet_faster`.
    "mmdet_faster_dcn": (295 + 53 + 2 * 13, 53, 41_753_056 + 871_263),
    "torchvision_faster": (295, 0, None),
    "torchvision_faster_old": (295, 0, None),
    "torchvision_mask": (307, 0, None),
    "torchvision_mask_old": (307, 0, None),
    "detectron2_faster_r50": (295, 0, None),
    "detectron2_mask_r50": (307, 0, None),
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
