"""The types of the options ``implementation``, ``normalizer`` and ``scale``.

Importing this module imports no other module of the package.
"""

from fractions import Fraction
from typing import Literal

# Implementations of the reassembly; carafe_kernels.choice maps each name to its module.
Implementation = Literal["xla", "mosaic_gpu"]
# Normalisers from logits to weights (Table 14 of the CARAFE++ paper).
Normalizer = Literal["softmax", "sigmoid", "sigmoid_normalized"]
# The scale of both axes, or the scales of rows and of columns.
Scale = Fraction | int | tuple[Fraction | int, Fraction | int]
