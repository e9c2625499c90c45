import math

import jax.numpy as jnp
import numpy as np
import pytest
from carafe_kernels import mosaic_gpu
from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu import blocks
from carafe_kernels.mosaic_gpu.tiling import (
    SHARED_MEMORY,
    THREADS,
    Problem,
    TooLargeError,
    forward_tile,
    input_gradient_tile,
    is_one_piece,
    weight_gradient_tile,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize(("batch", "rows", "columns"), [(1, 1, 1), (3, 9, 5), (2, 16, 8)])
def test_blocks_cover_every_cell_once(batch, rows, columns):
    grid = blocks.Grid(batch, rows, columns, tile_rows=4, tile_columns=3)
    covered = np.zeros((batch, -(-rows // 4) * 4, -(-columns // 3) * 3), int)
    for block in range(*grid.shape):
        b, row, column = map(int, grid.position(jnp.int32(block)))
        covered[b, row : row + 4, column : column + 3] += 1
    assert (covered == 1).all()


problems = st.builds(
    Problem,
    geometry=st.one_of(
        st.builds(
            Geometry,
            kernel_size=st.sampled_from(mosaic_gpu.KERNEL_SIZES),
            up=st.sampled_from(mosaic_gpu.UPS),
            groups=st.integers(1, 3),
        ),
        st.builds(
            Geometry,
            kernel_size=st.sampled_from(mosaic_gpu.KERNEL_SIZES),
            down=st.sampled_from(mosaic_gpu.DOWNS),
            groups=st.integers(1, 3),
        ),
    ),
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.integers(1, 300).map(lambda n: 6 * n),
    dtype=st.sampled_from([np.dtype(np.float32), jnp.dtype(jnp.bfloat16)]),
    cells_dtype=st.sampled_from([np.dtype(np.float32), jnp.dtype(jnp.bfloat16)]),
    normalizer=st.sampled_from([None, "softmax"]),
)


def narrow(width, channels):
    """One place of these, as wide as the channels of a tile, is one piece of a row."""
    bfloat16 = jnp.dtype(jnp.bfloat16)
    return Problem(Geometry(5, 2), 2, (40, width), channels, bfloat16, np.dtype(np.float32))


# Each buffer fills whole kilobytes.
ROUNDED = Problem(Geometry(7, 1, 3, 6), 2, (40, 40), 24, *[jnp.dtype(jnp.bfloat16)] * 2, "softmax")


@settings(max_examples=500)
@given(problems)
@example(narrow(2, 8))
@example(narrow(4, 4))
@example(ROUNDED)
def test_tiles_are_what_copies_can_move(problem):
    """Whole multiples of 128 bytes in, and out nothing that runs on into the next map."""
    geometry, itemsize = problem.geometry, problem.dtype.itemsize
    (_, width), (rows, columns), halo = problem.size, problem.cells, sum(geometry.halo)
    for choose, read, written, out_width in (
        (forward_tile, geometry.down, geometry.up, problem.output_size[1]),
        (input_gradient_tile, geometry.up, geometry.down, width),
    ):
        try:
            tile = choose(problem)
        except TooLargeError:
            continue
        assert tile.nbytes <= SHARED_MEMORY
        assert tile.rows * tile.channels == THREADS * tile.vector
        assert tile.group_channels % tile.channels == 0 or geometry.groups == 1
        assert tile.map_shape[1] >= tile.rows + halo
        assert tile.map_shape[2:] == (
            read // tile.passes,
            (tile.columns + halo) * read,
            tile.channels,
        )
        assert math.prod(tile.map_shape[1:]) * itemsize % 128 == 0
        assert tile.cells.padded_rows * tile.cells.box * tile.cells.dtype.itemsize % 128 == 0
        box = (tile.rows, written, tile.columns * written, tile.channels)
        assert tile.out_shape == box
        assert math.prod(box) * itemsize % 128 == 0
        array = (rows, written, out_width, geometry.groups * tile.group_channels)
        assert not is_one_piece(box, array)
    try:
        tile = weight_gradient_tile(problem)
    except TooLargeError:
        return
    assert tile.nbytes <= SHARED_MEMORY
    assert tile.rows * tile.columns == THREADS
    place = tile.pitch(problem.dtype) * 4
    assert place // 16 % 2 == 1
    source = tile.source_rows(geometry, problem.dtype) * geometry.down * (tile.columns + halo)
    assert source * place % 128 == 0
    box = (tile.rows, tile.columns, tile.cells.box)
    parts = geometry.up**2 // (tile.row_phases * tile.column_phases)
    entries = parts * tile.cells.boxes * tile.cells.box
    assert parts * tile.cells.entries == geometry.logit_channels
    assert not is_one_piece(box, (rows, columns, entries))
