"""The values of the options ``implementation`` and ``normalizer``.

Importing this module imports no other module of the package.
"""

from typing import Literal

# Implementations of the reassembly; carafe_kernels.choice maps each name to its module.
Implementation = Literal["xla", "mosaic_gpu"]
# Normalisers from logits to weights (Table 14 of the CARAFE++ paper).
Normalizer = Literal["softmax", "sigmoid", "sigmoid_normalized"]
