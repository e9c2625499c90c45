"""The libraries whose ResNets are converted."""

from typing import Literal

Library = Literal["torchvision", "timm"]
