"""Normalisation of logits in shared memory."""

import math

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from carafe_kernels.mosaic_gpu import blocks
from carafe_kernels.mosaic_gpu.blocks import Ref
from carafe_kernels.mosaic_gpu.buffers import CellTile
from carafe_kernels.mosaic_gpu.layouts import THREADS, kernel_block, kernel_layout
from carafe_kernels.normalizers import tap_weights


def normalized_weights(cells: CellTile, normalizer: str | None) -> CellTile | None:
    """The buffer for normalised weights, or ``None`` if they overwrite the logits.

    They can overwrite float32 logits if each thread normalises a kernel of its own. If two threads
    normalised the same kernel, one could read what the other has already overwritten.
    """
    if normalizer is None:
        return None
    in_place = cells.dtype == jnp.float32 and math.prod(kernel_block(*cells.shape[:3])) == THREADS
    return None if in_place else cells.normalized()


def normalize_cells(cells: CellTile, logits: Ref, weights: Ref, normalizer: str) -> None:
    """Normalises the kernels of a buffer; ``weights`` may be ``logits``."""
    boxes, rows, kernels, taps = cells.shape
    size = kernel_block(boxes, rows, kernels)
    layout = kernel_layout(*size)
    row_blocks = rows // size[1]

    # A loop with one kernel per thread at a time. If it were unrolled, the compiler would load
    # several kernels at once, and spill registers.
    def normalize(index, _):
        box = blocks.div(index, row_blocks) * size[0]
        row = blocks.rem(index, row_blocks) * size[1]
        block = pl.ds(box, size[0]), pl.ds(row, size[1]), slice(None)
        values = [blocks.load(logits.at[*block, tap], layout) for tap in range(taps)]
        for tap, value in enumerate(tap_weights(values, normalizer)):
            blocks.store(weights.at[*block, tap], value)

    blocks.loop(boxes // size[0] * row_blocks, normalize)
    plgpu.commit_smem()
