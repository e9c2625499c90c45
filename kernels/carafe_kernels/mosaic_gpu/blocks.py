"""Code that all kernels share: the position of a block, loads, stores and loops."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from carafe_kernels.mosaic_gpu.layouts import Layout

type Ref = Any  # Pallas exports no name for references and their slices


@dataclasses.dataclass(frozen=True)
class Grid:
    """Blocks over the cells of all maps, along one grid axis.

    The other two grid axes allow at most 65,535 blocks.

    Args:
        batch: number of maps.
        rows: number of rows of cells.
        columns: number of columns of cells.
        tile_rows: number of rows of cells per block.
        tile_columns: number of columns of cells per block.
    """

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
    def size(self) -> int:
        """Number of blocks."""
        return self.batch * math.prod(self._tiles)

    def position(self, block: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The index of a block's map, and the first row and column of its cells."""
        rows, columns = self._tiles
        column = rem(block, columns) * self.tile_columns
        row = rem(div(block, columns), rows) * self.tile_rows
        return div(block, rows * columns), row, column


def div(index: jax.Array, by: int) -> jax.Array:
    """Quotient of a non-negative index, in the dtype of the index even with ``jax_enable_x64``."""
    return lax.div(index, jnp.asarray(by, index.dtype))


def rem(index: jax.Array, by: int) -> jax.Array:
    """Remainder of a non-negative index."""
    return lax.rem(index, jnp.asarray(by, index.dtype))


def loop(steps: jax.Array | int, step: Callable[[jax.Array, Any], Any], state: Any = None) -> Any:
    """Runs ``state = step(index, state)`` for each index below ``steps``."""
    return lax.fori_loop(jnp.int32(0), jnp.asarray(steps, jnp.int32), step, state)


def traced_zero() -> jax.Array:
    """A zero that JAX does not know at trace time.

    JAX refuses a slice that starts at a known index and reaches beyond the end of its array. The
    copies of the kernels fill or clip such slices.
    """
    return lax.axis_index(Grid.names) * 0


def group(step: jax.Array, steps: int, groups: int) -> jax.Array | int:
    """The channel group of a step, if each group has ``steps`` steps."""
    return div(step, steps) if groups > 1 else 0


def load(ref: Ref, layout: Layout) -> jax.Array:
    """Loads in float32, also with layouts that cause bank conflicts."""
    return plgpu.load(ref, layout=layout, optimized=False).astype(jnp.float32)


def load_words(ref: Ref, layout: Layout, dtype: np.dtype) -> list[jax.Array]:
    """Loads words of a map of ``dtype``, and returns their one or two channels in float32.

    A bfloat16 is the upper half of a float32, so a shift and a mask convert two of them.
    """
    if dtype.itemsize == 4:
        return [load(ref, layout)]
    word = plgpu.load(ref, layout=layout, optimized=False)
    if dtype == jnp.bfloat16:
        halves = word << 16, word & jnp.uint32(0xFFFF0000)
        return [lax.bitcast_convert_type(half, jnp.float32) for half in halves]
    halves = (word & jnp.uint32(0xFFFF)).astype(jnp.uint16), (word >> 16).astype(jnp.uint16)
    return [lax.bitcast_convert_type(half, dtype).astype(jnp.float32) for half in halves]


def store_words(ref: Ref, channels: Sequence[jax.Array], dtype: np.dtype) -> None:
    """Stores channels as words, rounded to ``dtype``; the inverse of :func:`load_words`."""
    if dtype.itemsize == 4:
        (word,) = channels
    else:
        lower, upper = (
            lax.bitcast_convert_type(channel.astype(dtype), jnp.uint16).astype(jnp.uint32)
            for channel in channels
        )
        word = lower | (upper << 16)
    store(ref, word)


def store(ref: Ref, value: jax.Array) -> None:
    """Stores in the dtype of ``ref``, also with layouts that cause bank conflicts."""
    value = value.astype(ref.dtype)
    if hasattr(plgpu, "store"):
        plgpu.store(ref, value, optimized=False)
    else:  # before JAX 0.12, the only store takes any layout
        ref[...] = value


def split(index: jax.Array | int, size: int) -> tuple[jax.Array | int, jax.Array | int]:
    """Splits a non-negative index into the index of a box of ``size`` and the index in the box."""
    if isinstance(index, int):
        return divmod(index, size)
    return div(index, size), rem(index, size)


def broadcast_words(weights: jax.Array, words: int, layout: Layout) -> jax.Array:
    """Broadcasts weights over words, ``[rows] -> [rows, words]``."""
    shape = (*weights.shape, words)
    return plgpu.layout_cast(lax.broadcast_in_dim(weights, shape, (0,)), layout)


def add_products[Key](
    sums: dict[Key, list[jax.Array]], key: Key, weight: jax.Array, channels: Sequence[jax.Array]
) -> None:
    """Adds ``weight`` times each of ``channels`` to the sums of ``key``."""
    products = [weight * channel for channel in channels]
    if key in sums:
        products = [total + product for total, product in zip(sums[key], products, strict=True)]
    sums[key] = products


def pipelined_step(
    index: jax.Array,
    steps: int,
    slots: int,
    fetch: Callable[[jax.Array, jax.Array], None],
    barrier: Ref,
    compute: Callable[[jax.Array, jax.Array], Any],
) -> Any:
    """One step of a :func:`pipeline`; returns what ``compute`` returns."""
    slot = rem(index, slots)
    if slots > 1:

        @pl.when(index + 1 < steps)
        def _():
            fetch(index + 1, 1 - slot)

    plgpu.barrier_wait(barrier.at[slot])
    result = compute(index, slot)
    if slots == 1:

        @pl.when(index + 1 < steps)
        def _():
            fetch(index + 1, slot)

    return result


def pipeline(
    steps: int,
    slots: int,
    fetch: Callable[[jax.Array, jax.Array], None],
    barrier: Ref,
    compute: Callable[[jax.Array, jax.Array], None],
    ready: Callable[[], None],
) -> None:
    """Computes all steps; with two slots, the data of the next step is copied meanwhile.

    Args:
        steps: number of steps.
        slots: number of buffers, 1 or 2.
        fetch: function that starts the copies of a step into a slot.
        barrier: barriers of the copies, one for each slot.
        compute: function that computes a step from a slot. It must end with a barrier of all
            threads, after which the slot can be overwritten.
        ready: function that waits for the data that all steps need; it is called once.
    """

    def step(index, _):
        pipelined_step(index, steps, slots, fetch, barrier, compute)

    fetch(traced_zero(), jnp.int32(0))
    ready()
    loop(steps, step)
