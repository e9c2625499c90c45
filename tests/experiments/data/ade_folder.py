"""A small folder in the layout of ADE20K, with three classes."""

import numpy as np
from PIL import Image

from experiments.data.ade_layout import AdeLayout

LAYOUT = AdeLayout("objectInfo150.txt", 3, {"train": 4, "validation": 2})
CLASSES = ("wall", "building, edifice", "sky")
CLASS_LIST = (
    "Idx\tRatio\tTrain\tVal\tStuff\tName\n"
    "1\t0.1576\t11664\t1172\t1\twall\n"
    "2 \t0.1072\t6046\t612\t1\tbuilding, edifice \n"
    "3\t0.0878\t8265\t796\t1\tsky\n\n"
)
# Height and width of each image; the fourth is grey, and its label has no class.
SIZES = {
    "training": {1: (40, 60), 2: (30, 20), 3: (25, 70), 4: (12, 17)},
    "validation": {1: (20, 33), 2: (41, 19)},
}
SHORT = {"training": "train", "validation": "val"}


def stem(part, number):
    return f"ADE_{SHORT[part]}_{number:08}"


def image_path(folder, part, number):
    return folder / "images" / part / f"{stem(part, number)}.jpg"


def label_path(folder, part, number):
    return folder / "annotations" / part / f"{stem(part, number)}.png"


def write_folder(folder):
    for part, sizes in SIZES.items():
        image_path(folder, part, 1).parent.mkdir(parents=True)
        label_path(folder, part, 1).parent.mkdir(parents=True)
        for number, (height, width) in sizes.items():
            rng = np.random.default_rng([len(part), number])
            grey = number == 4
            shape = (height, width) if grey else (height, width, 3)
            pixels = rng.integers(256, size=shape, dtype=np.uint8)
            Image.fromarray(pixels).save(image_path(folder, part, number))
            values = rng.integers(1 if grey else 4, size=(height, width), dtype=np.uint8)
            Image.fromarray(values).save(label_path(folder, part, number))
    (folder / "objectInfo150.txt").write_text(CLASS_LIST)
    scenes = [f"{stem(part, number)} scene_{number} \n" for part in SIZES for number in SIZES[part]]
    (folder / "sceneCategories.txt").write_text("".join(scenes[:-1]))
    return folder
