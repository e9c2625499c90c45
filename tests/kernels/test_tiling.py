import math

import jax.numpy as jnp
import numpy as np
import pytest
from carafe_kernels import mosaic_gpu
from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu import blocks, cost
from carafe_kernels.mosaic_gpu.arrays import copied_dtype
from carafe_kernels.mosaic_gpu.buffers import SHARED_MEMORY, TooLargeError, is_one_piece
from carafe_kernels.mosaic_gpu.layouts import THREADS
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.tiling import forward_tile, input_gradient_tile
from carafe_kernels.mosaic_gpu.weight_tiling import weight_gradient_tile
from hypothesis import example, given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize(("batch", "rows", "columns"), [(1, 1, 1), (3, 9, 5), (2, 16, 8)])
def test_blocks_cover_every_cell_once(batch, rows, columns):
    grid = blocks.Grid(batch, rows, columns, tile_rows=4, tile_columns=3)
    covered = np.zeros((batch, -(-rows // 4) * 4, -(-columns // 3) * 3), int)
    for block in range(grid.size):
        b, row, column = map(int, grid.position(jnp.int32(block)))
        covered[b, row : row + 4, column : column + 3] += 1
    assert (covered == 1).all()


def problem_of(geometry, cells_dtype, **fields):
    return Problem(geometry, cells_dtype=copied_dtype(cells_dtype, geometry), **fields)


problems = st.builds(
    problem_of,
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
    """Narrow maps in which some boxes of a tile would be contiguous."""
    bfloat16 = jnp.dtype(jnp.bfloat16)
    return Problem(Geometry(5, 2), 2, (40, width), channels, bfloat16, np.dtype(np.float32))


# Each buffer takes a multiple of 1024 bytes.
ROUNDED = Problem(
    Geometry(7, 1, 3, 6), 2, (40, 40), 24, jnp.dtype(jnp.bfloat16), np.dtype(np.float32), "softmax"
)


@settings(max_examples=150)
@given(problems)
@example(narrow(2, 8))
@example(narrow(4, 4))
@example(ROUNDED)
def test_copies_can_move_the_tiles(problem):
    """Loads move multiples of 128 bytes, and no store is contiguous."""
    geometry = problem.geometry
    (_, width), (rows, _), halo = problem.size, problem.cells, sum(geometry.halo)
    channels_of_a_word = 4 // problem.dtype.itemsize
    for choose, read, written, out_width in (
        (forward_tile, geometry.down, geometry.up, problem.output_size[1]),
        (input_gradient_tile, geometry.up, geometry.down, width),
    ):
        try:
            tile = choose(problem)
        except TooLargeError:
            continue
        assert tile.nbytes <= SHARED_MEMORY
        assert tile.rows * tile.words == THREADS * tile.vector
        channels = tile.words * channels_of_a_word
        assert tile.group_channels % channels == 0 or geometry.groups == 1
        assert tile.chunks * channels >= problem.group_channels
        assert tile.map_shape[1] >= tile.rows + halo
        assert tile.map_shape[2:] == (
            read // tile.passes,
            (tile.columns + halo) * read,
            tile.words,
        )
        assert math.prod(tile.map_shape[1:]) * 4 % 128 == 0
        assert_boxes_of_kernels(tile.cells)
        assert tile.weights is None or tile.weights.shape == tile.cells.shape
        assert tile.cells.kernels * tile.cells.parts * tile.passes == geometry.up**2 * (
            geometry.groups
        )
        box = (tile.rows, written, tile.columns * written, tile.words)
        assert tile.out_shape == box
        assert math.prod(box) * 4 % 128 == 0
        words = geometry.groups * tile.group_channels // channels_of_a_word
        assert not is_one_piece(box, (rows, written, out_width, words))


def assert_boxes_of_kernels(cells):
    """The boxes are odd multiples of 16 bytes, with at most 256 entries."""
    entries = cells.box * cells.taps
    assert entries * cells.dtype.itemsize // 16 % 2 == 1
    assert entries * cells.dtype.itemsize % 16 == 0
    assert entries <= 256
    assert cells.boxes * cells.box >= cells.columns * cells.kernels
    assert cells.padded_rows * entries * cells.dtype.itemsize % 128 == 0


@settings(max_examples=150)
@given(problems)
@example(ROUNDED)
def test_copies_can_move_the_tiles_of_the_weight_gradient(problem):
    geometry = problem.geometry
    try:
        tile = weight_gradient_tile(problem)
    except TooLargeError:
        return
    assert tile.nbytes <= SHARED_MEMORY
    cells, runs = tile.cells, tile.cells.layout
    assert cells.rows * cells.columns == THREADS
    pixel_bytes = tile.pitch * 4
    assert pixel_bytes // 16 % 2 == 1
    assert tile.source_shape[1] >= cells.rows + sum(geometry.halo)
    assert math.prod(tile.source_shape[1:]) * 4 % 128 == 0
    assert runs.runs * runs.kernels_per_run == geometry.up**2 * geometry.groups
    assert runs.aligned * runs.entries * runs.dtype.itemsize % 16 == 0
    assert runs.aligned * runs.entries <= 256
    assert runs.padded_columns % runs.aligned == 0
    assert runs.padded_columns >= runs.columns
    assert cells.columns % runs.aligned == 0
    units = cells.columns // runs.aligned, runs.padded_columns // runs.aligned
    box, array = (
        (rows, number, width, runs.aligned * runs.entries)
        for rows, number, width in zip(
            (cells.rows, problem.cells[0]), (1, runs.runs), units, strict=True
        )
    )
    assert not cells.is_one_piece
    assert not is_one_piece(box, array)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(("dtype", "aligned"), [(np.float32, 4), (jnp.bfloat16, 8)])
def test_the_weight_gradient_stores_weights_and_logits_in_the_layout_of_callers(
    parts, dtype, aligned
):
    """A cell has one run for logits, and a run for each row of output phases for weights."""
    normalizer = "softmax" if parts == 1 else None
    for geometry, kernels in ((Geometry(5, 2), 4), (Geometry(3, 2), 4), (Geometry(5, 1, 2), 1)):
        problem = Problem(geometry, 2, (24, 32), 64, *[jnp.dtype(dtype)] * 2, normalizer)
        runs = weight_gradient_tile(problem).cells.layout
        assert runs.kernels_per_run == (kernels if normalizer else geometry.up)
        assert runs.padded_columns == runs.columns
        assert runs.aligned <= aligned


def test_narrow_maps_get_tiles_with_fewer_idle_cells():
    """With 14 columns, tiles of 4 columns have two idle columns, and tiles of 2 have none."""
    bfloat16 = jnp.dtype(jnp.bfloat16)
    problem = Problem(Geometry(5, 2), 512, (14, 14), 256, bfloat16, np.dtype(np.float32))
    assert forward_tile(problem).columns == 2


def test_small_batches_get_tiles_that_use_more_multiprocessors():
    bfloat16 = jnp.dtype(jnp.bfloat16)
    problem = Problem(Geometry(5, 1, 2), 64, (14, 14), 1024, bfloat16, bfloat16, "softmax")
    tile = forward_tile(problem)
    blocks = 64 * -(-7 // tile.rows) * -(-7 // tile.columns)
    assert (tile.rows, blocks) == (8, 128)


@pytest.mark.parametrize(
    ("geometry", "passes"),
    [(Geometry(5, 2), 1), (Geometry(5, 1, 2), 1), (Geometry(7, 4), 4)],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("normalizer", [None, "softmax"])
def test_there_are_several_passes_only_if_weights_do_not_fit(geometry, passes, dtype, normalizer):
    float32 = np.dtype(np.float32)
    problem = Problem(geometry, 2, (100, 100), 256, jnp.dtype(dtype), float32, normalizer)
    assert input_gradient_tile(problem).passes == passes


@given(
    size=st.integers(1, 60),
    tile=st.integers(1, 20),
    before=st.integers(0, 4),
    after=st.integers(0, 4),
)
def test_fetched_cells_are_counted_inside_the_map_only(size, tile, before, after):
    counted = sum(
        0 <= cell < size
        for start in range(0, size, tile)
        for cell in range(start - before, start + tile + after)
    )
    assert cost.fetched(size, tile, before, after) == counted
