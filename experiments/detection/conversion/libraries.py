"""The libraries whose files are converted."""

from typing import Literal

Library = Literal["mmdet", "torchvision", "detectron2"]
# torchvision 0.13 changed names; its published files have the names from before. Early versions of
# mmdet had other names for the offsets of deformable convolutions; those are read only.
Names = Literal["new", "old"]
