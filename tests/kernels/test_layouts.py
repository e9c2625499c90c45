import math

import jax.numpy as jnp
import numpy as np
import pytest
from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu.layouts import (
    THREADS,
    cell_layout,
    channel_layout,
    kernel_block,
    kernel_layout,
)
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.tiling import input_gradient_tile
from carafe_kernels.mosaic_gpu.weight_tiling import weight_gradient_tile
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.threads import first_elements, wavefronts

BFLOAT16, FLOAT32 = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)
GEOMETRIES = Geometry(3, 2), Geometry(5, 2), Geometry(7, 2), Geometry(5, 1, 2)
QUAD = 4  # words of the widest load


def problem(geometry, dtype=FLOAT32, normalizer=None):
    cells_dtype = dtype if normalizer else FLOAT32
    return Problem(geometry, 2, (100, 100), 256, dtype, cells_dtype, normalizer)


def all_wavefronts(elements, address, words):
    """The number of cycles of the slowest warp; `address` is in words, from an element's index."""
    return max(wavefronts([address(int(e)) for e in warp], words) for warp in elements)


def test_each_thread_holds_another_cell():
    elements = first_elements(cell_layout(8, 16), (8, 16))
    assert elements.shape == (4, 32)
    assert sorted(elements.flat) == list(range(THREADS))


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([4, 8]))
def test_kernel_blocks_divide_the_buffer_and_warps_hold_disjoint_kernels(boxes, rows, kernels):
    rows *= 8
    size = kernel_block(boxes, rows, kernels)
    assert (boxes % size[0], rows % size[1], kernels % size[2]) == (0, 0, 0)
    elements = first_elements(kernel_layout(*size), size)
    assert sorted(set(elements.flat)) == list(range(math.prod(size)))
    warps = [set(warp) for warp in elements]
    assert sum(map(len, warps)) == math.prod(size)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
def test_the_weight_gradient_loads_maps_without_conflicts(geometry, dtype):
    """Four words per lane are 128 words, which take at least four cycles."""
    tile = weight_gradient_tile(problem(geometry, dtype))
    cells = tile.cells.rows, tile.cells.columns
    elements = first_elements(cell_layout(*cells), cells)
    for _, _, row_phases, columns, pitch in (tile.source_shape, tile.output_shape):

        def address(cell, row_pitch=row_phases * columns * pitch, pitch=pitch):
            row, column = divmod(cell, cells[1])
            return row * row_pitch + column * pitch

        assert all_wavefronts(elements, address, QUAD) == 4


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
def test_logits_are_normalised_without_conflicts_and_by_most_threads(geometry, dtype):
    tile = input_gradient_tile(problem(geometry, dtype, "softmax"))
    boxes, rows, kernels, taps = tile.cells.shape
    size = kernel_block(boxes, rows, kernels)
    assert math.prod(size) >= THREADS // 2
    elements = first_elements(kernel_layout(*size), size)

    def address(kernel):
        box, row, box_kernel = np.unravel_index(kernel, size)
        return ((box * rows + row) * kernels + box_kernel) * taps

    assert all_wavefronts(elements, address, 1) == 1


@pytest.mark.parametrize(("rows", "words", "vector"), [(8, 64, 4), (16, 32, 4), (8, 32, 2)])
def test_the_lanes_of_a_row_hold_consecutive_channels(rows, words, vector):
    layout, row_layout = channel_layout(rows, words, vector)
    elements = first_elements(layout, (rows, words))
    assert sorted(elements.flat) == list(range(0, rows * words, vector))
    lanes_of_a_row = words // vector
    pairs = zip(elements.reshape(-1), first_elements(row_layout, (rows,)).reshape(-1), strict=True)
    assert all(element // words == row for element, row in pairs)
    assert all_wavefronts(elements, lambda element: element, vector) == vector
    assert lanes_of_a_row * rows == THREADS
