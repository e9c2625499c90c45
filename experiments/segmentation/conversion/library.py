"""The libraries whose segmenters are converted."""

from typing import Literal

Library = Literal["csail", "mmseg"]
