"""Writes the lists of names and shapes, as a program with PyTorch and torchvision.

The program is `python -m tests.experiments.detection.conversion.write_keys`. torchvision's names
come from its own models, the names of mmdet and detectron2 from the twins.
"""

import importlib

from tests.experiments.detection.conversion.in_pytorch import detectron2_twins, mmdet_twins
from tests.experiments.detection.conversion.key_lists import FOLDER, OLD_NAMES, renamed


def lists():
    """The lines of each list, by the name of its file."""
    torch = importlib.import_module("torch")
    detection = importlib.import_module("torchvision.models.detection")
    with torch.device("meta"):
        models = {
            "torchvision_faster": detection.fasterrcnn_resnet50_fpn(
                weights=None, weights_backbone=None
            ),
            "torchvision_mask": detection.maskrcnn_resnet50_fpn(
                weights=None, weights_backbone=None
            ),
            "mmdet_faster": mmdet_twins().Mmdet(masks=False, carafe=False),
            "mmdet_mask": mmdet_twins().Mmdet(masks=True, carafe=False),
            "mmdet_faster_carafe": mmdet_twins().Mmdet(masks=False, carafe=True),
            "mmdet_mask_carafe": mmdet_twins().Mmdet(masks=True, carafe=True),
            "mmdet_faster_dcn": mmdet_twins().Mmdet(masks=False, deformable=True),
            "detectron2_faster_dcn": detectron2_twins().Detectron2(masks=False, deformable=True),
            "detectron2_faster_r50": detectron2_twins().Detectron2(masks=False),
            "detectron2_mask_r50": detectron2_twins().Detectron2(masks=True),
            "detectron2_faster_r101": detectron2_twins().Detectron2(masks=False, depth=101),
            "detectron2_mask_r101": detectron2_twins().Detectron2(masks=True, depth=101),
        }
    found = {name: shapes(model) for name, model in models.items()}
    for name in ("torchvision_faster", "torchvision_mask"):
        # torchvision publishes files with frozen normalisations, which have no counters.
        found[name] = {key: shape for key, shape in found[name].items() if "num_batches" not in key}
        found[f"{name}_old"] = renamed(found[name], OLD_NAMES)
    return {name: text(of_model) for name, of_model in found.items()}


def shapes(model):
    return {name: tuple(array.shape) for name, array in model.state_dict().items()}


def text(shapes):
    lines = [f"{name} {'x'.join(map(str, shape)) or '-'}" for name, shape in shapes.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for name, content in lists().items():
        (FOLDER / f"{name}.txt").write_text(content)
