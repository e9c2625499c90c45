"""Estimates of the cycles that a kernel takes with a tile, to choose between tiles.

The model is an H100. Each multiply-add, conversion and load takes one issue slot of a warp
scheduler. Shared memory serves 128 bytes per cycle. The second-level cache serves all
multiprocessors. The slowest of these decides. Blocks run in rounds of one block per multiprocessor.
Cells beyond the end of a map are computed like other cells, but nothing is copied for them.
"""

from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu.layouts import WARPS
from carafe_kernels.mosaic_gpu.problem import Problem

MULTIPROCESSORS = 132
_CACHE_BYTES_PER_CYCLE = 3200  # some 5.5 TB/s at 1.7 GHz, for all multiprocessors together
_WEIGHTS_PER_LOAD = 2  # up to four weights of consecutive taps come with one load
_INSTRUCTIONS_PER_CONVERSION = 2  # from one word to two channels
_MEMORY_BYTES_PER_CYCLE = 1500  # some 2.6 TB/s
_CYCLES_PER_LAUNCH = 5000  # some 3 us
_CYCLES_PER_STEP = 400  # barriers and latency that no other block hides


def fetched(size: int, tile: int, before: int, after: int) -> int:
    """Number of cells that all tiles along an axis fetch, with halos, inside the map only."""
    starts = range(0, size, tile)
    return sum(min(start + tile + after, size) - max(start - before, 0) for start in starts)


def source_columns(geometry: Geometry, columns: int) -> int:
    """Number of columns of sources that the outputs of ``columns`` cells read."""
    reads = [geometry.read(v, m) for v in range(geometry.up) for m in range(geometry.kernel_size)]
    return len({(q + read.cell_shift, read.source_phase) for q in range(columns) for read in reads})


def reading_columns(geometry: Geometry, columns: int) -> int:
    """Number of columns of outputs that read the sources of ``columns`` cells."""
    readers = [reader for t in range(geometry.down) for reader in geometry.readers(t)]
    return len(
        {(q + reader.cell_shift, reader.phase) for q in range(columns) for reader in readers}
    )


def copy_cycles(problem: Problem, cell_bytes: int) -> int:
    """Estimated cycles of a copy in device memory, which XLA makes to pad weights or logits.

    Args:
        problem: problem of the kernel that needs the padded array.
        cell_bytes: bytes of a cell that the copy reads and writes.
    """
    rows, columns = problem.cells
    moved = problem.batch * rows * columns * cell_bytes
    return _CYCLES_PER_LAUNCH + moved // _MEMORY_BYTES_PER_CYCLE


def cycles(
    problem: Problem,
    *,
    rows: int,
    columns: int,
    vector: int,
    steps: int,
    loads: int,
    halo: tuple[int, int],
    map_bytes: tuple[int, int],
    cell_bytes: int,
    cell_halo: tuple[int, int],
    lead: int,
) -> int:
    """Estimated cycles of a forward pass or an input gradient.

    Args:
        problem: problem that the kernel computes.
        rows: number of rows of cells of a tile.
        columns: number of columns of cells of a tile.
        vector: number of words per thread.
        steps: number of steps over the channels.
        loads: number of loads of ``vector`` words per thread and step.
        halo: numbers of cells before and after a tile whose pixels the tile reads.
        map_bytes: bytes of a cell in the input map and in the output map, for all channels.
        cell_bytes: bytes of the weights or logits of a cell.
        cell_halo: numbers of cells before and after a tile whose weights the tile reads.
        lead: number of columns of cells before those whose weights are copied, too.
    """
    geometry = problem.geometry
    weights = columns * geometry.up**2 * geometry.taps
    products = weights * vector * problem.channels_of_a_word
    conversions = loads * vector * _INSTRUCTIONS_PER_CONVERSION * (problem.channels_of_a_word - 1)
    weight_loads = weights // _WEIGHTS_PER_LOAD
    issued = products + conversions + loads + weight_loads
    wavefronts = WARPS * (loads * vector + weight_loads)
    (map_rows, map_columns), (bytes_in, bytes_out) = problem.cells, map_bytes
    tiles = -(-map_rows // rows) * -(-map_columns // columns)
    rounds = -(-problem.batch * tiles // MULTIPROCESSORS)
    read = fetched(map_rows, rows, *halo) * fetched(map_columns, columns, *halo) * bytes_in
    cell_before, cell_after = cell_halo
    copied_rows = fetched(map_rows, rows, cell_before, cell_after)
    copied = copied_rows * fetched(map_columns, columns, cell_before + lead, cell_after)
    moved = read + copied * cell_bytes + map_rows * map_columns * bytes_out
    step = max(issued, wavefronts) + _CYCLES_PER_STEP
    return max(rounds * steps * step, problem.batch * moved // _CACHE_BYTES_PER_CYCLE)
