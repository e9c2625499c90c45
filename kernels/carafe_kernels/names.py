"""The names that options take. Importing this module imports nothing else."""

from typing import Literal

# What computes a reassembly; carafe_kernels.choice has the module of each.
Implementation = Literal["xla", "mosaic_gpu"]
# What makes kernels of logits (Table 14 of the CARAFE++ paper).
Normalizer = Literal["softmax", "sigmoid", "sigmoid_normalized"]
