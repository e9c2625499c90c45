"""The names of all kernel normalisers (Table 14)."""

from typing import Literal

Normalizer = Literal["softmax", "sigmoid", "sigmoid_normalized"]
