"""What the kernels have in common: where a block stands, and the weights it holds."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from carafe_kernels.mosaic_gpu.tiling import CellTile, Layout, Problem, Tile, cell_layout
from carafe_kernels.normalizers import tap_weights

type Ref = Any  # Pallas exports no name for references and their slices

# Lane semantics take layouts that are written out, also of slices that start anywhere. Barriers
# are ours: no buffer is both read and written between two of them.
COMPILER_PARAMS = plgpu.CompilerParams(
    lowering_semantics=plgpu.LoweringSemantics.Lane, unsafe_no_auto_barriers=True
)


@dataclasses.dataclass(frozen=True)
class Grid:
    """Blocks over the cells of all maps, on one axis: the others end at 65,535 blocks."""

    batch: int
    rows: int
    columns: int
    tile_rows: int
    tile_columns: int
    names: ClassVar[tuple[str, ...]] = ("block",)

    @property
    def _tiles(self) -> tuple[int, int]:
        return -(-self.rows // self.tile_rows), -(-self.columns // self.tile_columns)

    @property
    def shape(self) -> tuple[int]:
        return (self.batch * math.prod(self._tiles),)

    def position(self, block: jax.Array | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The map of this block, and the first row and column of its cells."""
        if block is None:
            block = lax.axis_index(self.names)
        rows, columns = (np.int32(n) for n in self._tiles)
        column = lax.rem(block, columns) * self.tile_columns
        row = lax.rem(lax.div(block, columns), rows) * self.tile_rows
        return lax.div(block, rows * columns), row, column


def unknown_zero() -> jax.Array:
    """Where a slice starts at zero, but may reach over the end of its array.

    The copy fills or clips what lies there; of a start that is known, JAX refuses that.
    """
    return lax.axis_index(Grid.names) * 0


def group(chunk: jax.Array, tile: Tile, groups: int) -> jax.Array | int:
    """The group of channels that a step belongs to."""
    return lax.div(chunk, np.int32(tile.chunks)) if groups > 1 else 0


def load(ref: Ref, layout: Layout) -> jax.Array:
    """Loads in float32, in whatever order of memory banks the layout comes to."""
    return plgpu.load(ref, layout=layout, optimized=False).astype(jnp.float32)


def store(ref: Ref, value: jax.Array) -> None:
    """Stores in the dtype of ``ref``, as :func:`load` loads."""
    value = value.astype(ref.dtype)
    if hasattr(plgpu, "store"):
        plgpu.store(ref, value, optimized=False)
    else:  # before JAX 0.12 there is one kind of store, which takes any layout
        ref[...] = value


def split(entry: jax.Array | int, box: int) -> tuple[jax.Array | int, jax.Array | int]:
    """The box of an entry of a cell, and the place in it; known now unless groups are looped."""
    if isinstance(entry, int):
        return divmod(entry, box)
    return lax.div(entry, np.int32(box)), lax.rem(entry, np.int32(box))


def spread(weights: jax.Array, tile: Tile, layout: Layout) -> jax.Array:
    """``[rows] -> [rows, channels]``."""
    shape = (tile.rows, tile.channels)
    return plgpu.layout_cast(lax.broadcast_in_dim(weights, shape, (0,)), layout)


def pipeline(
    steps: int,
    slots: int,
    fetch: Callable[[jax.Array, jax.Array], None],
    barrier: Ref,
    compute: Callable[[jax.Array, jax.Array], None],
    ready: Callable[[], None],
) -> None:
    """Computes all steps, each while what the next one needs comes in, if there are two slots.

    ``compute`` must end with a barrier of all threads: it frees the slot. ``ready`` waits, once,
    for what all steps need.
    """

    def step(index, _):
        slot = lax.rem(index, np.int32(slots))
        if slots > 1:

            @pl.when(index + 1 < steps)
            def _():
                fetch(index + 1, 1 - slot)

        plgpu.barrier_wait(barrier.at[slot])
        compute(index, slot)
        if slots == 1:

            @pl.when(index + 1 < steps)
            def _():
                fetch(index + 1, slot)

    fetch(unknown_zero(), 0)
    ready()
    lax.fori_loop(0, steps, step, None)


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of a block's cells in shared memory, normalised there if logits came in."""

    problem: Problem
    tile: Tile
    layout: Layout

    @property
    def _copied(self) -> CellTile:
        return self.tile.cells

    @property
    def _weights(self) -> CellTile:
        if self.problem.normalizer is None:
            return self._copied
        return self._copied.astype(np.dtype(np.float32))

    @property
    def scratch(self) -> tuple:
        copied = self._copied
        buffers = [
            plgpu.SMEM(copied.shape, copied.dtype),
            plgpu.Barrier(num_arrivals=copied.copies),
        ]
        if self._weights != copied:
            buffers.append(plgpu.SMEM(self._weights.shape, self._weights.dtype))
        return tuple(buffers)

    def _buffer(self, scratch):
        return scratch[0] if self._weights == self._copied else scratch[2]

    def fetch(self, cells, scratch, b, row, column, part: int = 0) -> None:
        """Starts to copy a part of the entries of the cells from ``row`` and ``column`` on."""
        copied, (buffer, barrier, *_) = self._copied, scratch
        first = unknown_zero() + part * copied.entries
        for box in range(copied.boxes):
            for q in range(copied.columns):
                plgpu.copy_gmem_to_smem(
                    cells.at[
                        b,
                        pl.ds(row, copied.padded_rows),
                        pl.ds(column + q, 1),
                        pl.ds(first + box * copied.box, copied.box),
                    ],
                    buffer.at[box, q],
                    barrier,
                    oob_mode=plgpu.OOBFillMode.ZEROS,
                )

    def wait(self, scratch) -> None:
        """Waits for the copies, and normalises."""
        buffer, barrier, *_ = scratch
        plgpu.barrier_wait(barrier)
        if self.problem.normalizer is None:
            return
        copied, weights, target = self._copied, self._weights, self._buffer(scratch)
        taps = self.problem.geometry.taps
        layout = cell_layout(copied.columns, copied.padded_rows)
        for first in range(0, copied.entries, taps):
            logits = [
                load(buffer.at[entry // copied.box, :, :, 0, entry % copied.box], layout)
                for entry in range(first, first + taps)
            ]
            for entry, weight in enumerate(tap_weights(logits, self.problem.normalizer), first):
                box, place = divmod(entry, weights.box)
                store(target.at[box, :, pl.ds(0, copied.padded_rows), 0, place], weight)
        plgpu.commit_smem()

    def load(self, scratch, row: int, column: int, index: tuple) -> jax.Array:
        """``[rows]`` in float32 from ``row`` of the tile on: index ``(u, v, group, tap)``."""
        u, v, group, tap = index
        geometry, weights = self.problem.geometry, self._weights
        entry = ((u * geometry.up + v) * geometry.groups + group) * geometry.taps + tap
        box, place = split(entry, weights.box)
        ref = self._buffer(scratch).at[box, column, pl.ds(row, self.tile.rows), 0, place]
        return load(ref, self.layout)
