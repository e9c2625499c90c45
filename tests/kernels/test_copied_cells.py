"""Tests of the copies of weights and logits into shared memory, without a kernel."""

import dataclasses
import math
import types
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu import copied_cells, tiling
from carafe_kernels.mosaic_gpu.buffers import TooLargeError
from carafe_kernels.mosaic_gpu.copied_cells import CopiedCells
from carafe_kernels.mosaic_gpu.copied_runs import CopiedRuns
from carafe_kernels.mosaic_gpu.forward_band_tiling import forward_band_tile, forward_bands_reason
from carafe_kernels.mosaic_gpu.input_band_tiling import (
    SIDE,
    SQUARES,
    input_band_tile,
    input_bands_reason,
)
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.settings import Settings
from carafe_kernels.mosaic_gpu.squares import CELLS
from carafe_kernels.mosaic_gpu.weight_product_tiling import (
    weight_product_tile,
    weight_products_reason,
)
from hypothesis import given, settings

from tests.kernels.test_tiling import problems

BFLOAT16, FLOAT32 = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)
ALIGNMENT = 16  # bytes; a copy that starts elsewhere stops the program with an illegal instruction


class Indices:
    def __getitem__(self, index):
        return index


def copied_boxes(copied, row, column):
    """The index in device memory of each copy of a block."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            copied_cells.plgpu, "copy_gmem_to_smem", lambda index, *_, **__: found.append(index)
        )
        array = types.SimpleNamespace(at=Indices())
        copied.fetch(array, mock.MagicMock(), None, 0, row, column)
    return found


def copied_of(problem, name):
    """The copies of a kernel, the columns of its blocks, and the columns copied before them."""
    _, before = problem.geometry.halo
    if name == "bands":
        return CopiedCells(forward_band_tile(problem).cells, 2, (0, 0), Settings()), CELLS, 0
    if name == "input gradient, bands":
        tile = input_band_tile(problem)
        copied = CopiedCells(tile.cells, 2, tile.before, Settings())
        return copied, SQUARES * SIDE, tile.before[1]
    choose, halo = {
        "forward": (tiling.forward_tile, 0),
        "input gradient": (tiling.input_gradient_tile, before),
    }[name]
    tile = choose(problem)
    copied = CopiedCells(tile.cells, problem.geometry.up, (halo, halo), Settings())
    return copied, tile.columns, halo


BANDS_REASONS = {"bands": forward_bands_reason, "input gradient, bands": input_bands_reason}


@pytest.mark.parametrize("name", ["forward", "input gradient", *BANDS_REASONS])
@settings(max_examples=100)
@given(problem=problems)
def test_copies_start_at_multiples_of_16_bytes(name, problem):
    if name in BANDS_REASONS and BANDS_REASONS[name](problem) is not None:
        problem = dataclasses.replace(
            problem, geometry=Geometry(5, 2), dtype=BFLOAT16, cells_dtype=FLOAT32
        )
    try:
        copied, columns, halo = copied_of(problem, name)
    except TooLargeError:
        return
    tile = copied.cells
    cell = tile.padded_kernels * tile.taps
    for column in range(0, problem.cells[1], columns):
        boxes = copied_boxes(copied, 0, column)
        assert len(boxes) == tile.parts * tile.boxes
        starts = [index[-1].start for index in boxes]
        assert all(start * tile.dtype.itemsize % ALIGNMENT == 0 for start in starts)
        # The boxes hold the kernels of the block and of its halo.
        assert min(starts) <= (column - halo) * cell
        assert max(starts) + boxes[0][-1].size >= (column - halo + tile.columns) * cell


@pytest.mark.parametrize(
    ("geometry", "dtype"),
    [(Geometry(3, 3), "float32"), (Geometry(5, 1, 3), "bfloat16")],
    ids=str,
)
def test_cells_are_padded_if_no_tile_is_aligned(geometry, dtype):
    """The cells of 3 x 3 kernels of 9 taps, and of one kernel in 16 bits, are not aligned."""
    dtype = jnp.dtype(dtype)
    problem = Problem(geometry, 2, (30, 30), 64, jnp.dtype(jnp.float32), dtype, "softmax")
    tile = tiling.input_gradient_tile(problem)
    assert tile.cells.padded_kernels > tile.cells.kernels
    copied = CopiedCells(tile.cells, geometry.up, (geometry.halo[1],) * 2, Settings())
    cells = problem.cells
    entries = geometry.up**2 * geometry.taps
    values = np.arange(2 * math.prod(cells) * entries).reshape(2, cells[0], 1, cells[1], entries)
    values = values.astype(np.float32)
    found = np.asarray(copied.operand(jnp.asarray(values)))
    padded = found.reshape(2, cells[0], 1, -1, tile.cells.padded_kernels * geometry.taps)
    np.testing.assert_array_equal(padded[:, :, :, : cells[1], :entries], values)
    assert not padded[..., entries:].any()


@settings(max_examples=100)
@given(problem=problems)
def test_copies_of_weight_gradients_by_products_move_multiples_of_16_bytes(problem):
    if weight_products_reason(problem) is not None:
        problem = dataclasses.replace(problem, geometry=Geometry(5, 2), dtype=BFLOAT16)
    tile = weight_product_tile(problem).cells
    copied, runs = CopiedRuns(tile, Settings()), tile.layout
    assert copied.shape[-1] * runs.dtype.itemsize % ALIGNMENT == 0
    assert copied.shape[-1] <= 256
    # Buffers in shared memory start at multiples of 128 bytes.
    assert math.prod(tile.shape[1:]) * runs.dtype.itemsize % 128 == 0
    for column in range(0, problem.cells[1], CELLS):
        assert column % runs.aligned == 0
