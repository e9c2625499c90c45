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

from carafe_kernels.mosaic_gpu.layouts import Layout, cell_block, cell_layout
from carafe_kernels.mosaic_gpu.tiling import CellTile, Problem, Tile
from carafe_kernels.normalizers import tap_weights

type Ref = Any  # Pallas exports no name for references and their slices


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
        rows, columns = self._tiles
        column = rem(block, columns) * self.tile_columns
        row = rem(div(block, columns), rows) * self.tile_rows
        return div(block, rows * columns), row, column


def div(index: jax.Array, by: int) -> jax.Array:
    """Quotient of an index that is not negative; in 32 bits also where JAX counts in 64."""
    return lax.div(index, jnp.asarray(by, index.dtype))


def rem(index: jax.Array, by: int) -> jax.Array:
    """Remainder of an index that is not negative."""
    return lax.rem(index, jnp.asarray(by, index.dtype))


def loop(steps: jax.Array | int, step: Callable[[jax.Array, Any], Any], state: Any = None) -> Any:
    """Runs ``state = step(index, state)`` for so many steps."""
    return lax.fori_loop(jnp.int32(0), jnp.asarray(steps, jnp.int32), step, state)


def unknown_zero() -> jax.Array:
    """Where a slice starts at zero, but may reach over the end of its array.

    The copy fills or clips what lies there; of a start that is known, JAX refuses that.
    """
    return lax.axis_index(Grid.names) * 0


def group(chunk: jax.Array, tile: Tile, groups: int) -> jax.Array | int:
    """The group of channels that a step belongs to."""
    return div(chunk, tile.chunks) if groups > 1 else 0


def load(ref: Ref, layout: Layout) -> jax.Array:
    """Loads in float32, in whatever order of memory banks the layout comes to."""
    return plgpu.load(ref, layout=layout, optimized=False).astype(jnp.float32)


def load_word(ref: Ref, layout: Layout, dtype: np.dtype) -> list[jax.Array]:
    """The one or two channels of a word, of maps of ``dtype``, in float32."""
    if dtype.itemsize == 4:
        return [load(ref, layout)]
    word = plgpu.load(ref, layout=layout, optimized=False)
    if dtype == jnp.bfloat16:  # the upper half of a float32
        halves = word << 16, word & jnp.uint32(0xFFFF0000)
        return [lax.bitcast_convert_type(half, jnp.float32) for half in halves]
    halves = (word & jnp.uint32(0xFFFF)).astype(jnp.uint16), (word >> 16).astype(jnp.uint16)
    return [lax.bitcast_convert_type(half, dtype).astype(jnp.float32) for half in halves]


def store(ref: Ref, value: jax.Array) -> None:
    """Stores in the dtype of ``ref``, as :func:`load` loads."""
    value = value.astype(ref.dtype)
    if hasattr(plgpu, "store"):
        plgpu.store(ref, value, optimized=False)
    else:  # before JAX 0.12 there is one kind of store, which takes any layout
        ref[...] = value


def split(entry: jax.Array | int, tile: CellTile) -> tuple[jax.Array | int, jax.Array | int]:
    """The box of an entry of a cell, and the place in it."""
    if tile.boxes == 1:
        return 0, entry
    if isinstance(entry, int):
        return divmod(entry, tile.box)
    return div(entry, tile.box), rem(entry, tile.box)


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
        slot = rem(index, slots)
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

    fetch(unknown_zero(), jnp.int32(0))
    ready()
    loop(steps, step)


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of a block's cells in shared memory, normalised there if logits came in."""

    problem: Problem
    tile: Tile
    layout: Layout

    @property
    def _weights(self) -> CellTile:
        return self.tile.weights or self.tile.cells

    @property
    def scratch(self) -> tuple[Any, ...]:
        """Buffers that hold logits or weights, their barrier, and room for normalised weights."""
        copied = self.tile.cells
        buffers = [
            plgpu.SMEM(copied.shape, copied.dtype),
            plgpu.Barrier(num_arrivals=copied.copies),
        ]
        if self.tile.weights:
            buffers.append(plgpu.SMEM(self.tile.weights.shape, self.tile.weights.dtype))
        return tuple(buffers)

    @property
    def scratch_of_kernel(self) -> tuple[Any, ...]:
        """The map that comes in, the one that goes out, a barrier a slot; and :attr:`scratch`."""
        return (
            plgpu.SMEM(self.tile.map_shape, self.problem.dtype),
            plgpu.SMEM(self.tile.out_shape, self.problem.dtype),
            plgpu.Barrier(num_barriers=self.tile.slots),
            self.scratch,
        )

    def _buffer(self, scratch):
        return scratch[2] if self.tile.weights else scratch[0]

    def fetch(self, cells, scratch, b, row, column, part: jax.Array | int = 0) -> None:
        """Starts to copy a part of the entries of the cells from ``row`` and ``column`` on."""
        copied, (buffer, barrier, *_) = self.tile.cells, scratch
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
        normalizer = self.problem.normalizer
        if normalizer is None:
            return
        copied, weights, target = self.tile.cells, self._weights, self._buffer(scratch)
        taps = self.problem.geometry.taps
        size = cell_block(copied.columns, copied.padded_rows)
        layout = cell_layout(*size)
        blocks_of_rows = copied.padded_rows // size[1]

        kernels = copied.entries // taps

        # One kernel of one cell at a time: the compiler would load those of several, and spill.
        def normalize(index, _):
            block, first = div(index, kernels), rem(index, kernels) * taps
            column = div(block, blocks_of_rows) * size[0]
            row = rem(block, blocks_of_rows) * size[1]
            cells = pl.ds(column, size[0]), pl.ds(row, size[1]), 0
            entries = [first + tap for tap in range(taps)]
            places = [split(entry, copied) for entry in entries]
            logits = [load(buffer.at[box, *cells, place], layout) for box, place in places]
            places = [split(entry, weights) for entry in entries]
            values = tap_weights(logits, normalizer)
            for (box, place), value in zip(places, values, strict=True):
                store(target.at[box, *cells, place], value)

        loop(copied.columns // size[0] * blocks_of_rows * kernels, normalize)
        plgpu.commit_smem()

    def load(self, scratch, row: int, column: int, index: tuple[Any, ...]) -> jax.Array:
        """``[rows]`` in float32 from ``row`` of the tile on: index ``(u, v, group, tap)``."""
        u, v, group, tap = index
        geometry, weights = self.problem.geometry, self._weights
        entry = ((u * geometry.up + v) * geometry.groups + group) * geometry.taps + tap
        box, place = split(entry, weights)
        ref = self._buffer(scratch).at[box, column, pl.ds(row, self.tile.rows), 0, place]
        return load(ref, self.layout)
