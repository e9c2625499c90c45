"""An estimate of the cycles that a tile takes, to choose between tiles.

Counted for an H100: a multiply-add, a conversion or a load takes an issue slot of a warp's
scheduler; shared memory serves 128 bytes a cycle; the second cache serves all multiprocessors. What
is slowest decides. Blocks come in rounds of one a multiprocessor, and cells beyond the end of a map
cost as much as any other but for what is copied.
"""

from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu.layouts import WARPS
from carafe_kernels.mosaic_gpu.problem import Problem

MULTIPROCESSORS = 132
_CACHE_BYTES_PER_CYCLE = 3200  # some 5.5 TB/s at 1.7 GHz, of all multiprocessors together
_WEIGHTS_PER_LOAD = 2  # they come up to four at a time, where taps follow each other
_INSTRUCTIONS_PER_CONVERSION = 2  # of a word into two channels
_CYCLES_PER_STEP = 400  # barriers and latency that no other block hides


def fetched(size: int, tile: int, before: int, after: int) -> int:
    """Cells that all tiles of an axis fetch, each with its halo, inside the axis only."""
    starts = range(0, size, tile)
    return sum(min(start + tile + after, size) - max(start - before, 0) for start in starts)


def source_columns(geometry: Geometry, columns: int) -> int:
    """Columns of sources that the outputs of ``columns`` cells read."""
    reads = [geometry.read(v, m) for v in range(geometry.up) for m in range(geometry.kernel_size)]
    return len({(q + read.cell_shift, read.source_phase) for q in range(columns) for read in reads})


def reading_columns(geometry: Geometry, columns: int) -> int:
    """Columns of outputs that read the sources of ``columns`` cells."""
    readers = [reader for t in range(geometry.down) for reader in geometry.readers(t)]
    return len(
        {(q + reader.cell_shift, reader.phase) for q in range(columns) for reader in readers}
    )


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
    cell_halo: tuple[int, int],
) -> int:
    """Cycles of all blocks of a forward pass or an input gradient.

    Args:
        problem: what is computed.
        rows: cells of a tile.
        columns: cells of a tile.
        vector: words of a thread.
        steps: over the channels.
        loads: of ``vector`` words, of a thread in one step.
        halo: cells before and after a tile that it reads.
        map_bytes: of a cell in the map that comes in and in the one that goes out, all channels.
        cell_halo: cells before and after a tile of which it needs the weights.
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
    cell_bytes = geometry.logit_channels * problem.cells_dtype.itemsize
    copied = fetched(map_rows, rows, *cell_halo) * fetched(map_columns, columns, *cell_halo)
    moved = read + copied * cell_bytes + map_rows * map_columns * bytes_out
    step = max(issued, wavefronts) + _CYCLES_PER_STEP
    return max(rounds * steps * step, problem.batch * moved // _CACHE_BYTES_PER_CYCLE)
