"""The libraries whose files are converted."""

from typing import Literal

Library = Literal["mmdet", "torchvision", "detectron2"]
# torchvision 0.13 changed names; its published files have the names from before.
Names = Literal["new", "old"]
