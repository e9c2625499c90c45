"""Describes where results are wrong, by parts of arrays that hint at the cause."""

from typing import Any

import numpy as np
import numpy.typing as npt

TILE_CELLS = 8  # cells along an axis of most tiles

Bools = npt.NDArray[np.bool_]


def parts(shape: tuple[int, ...], cells: tuple[int, int], radius: int) -> dict[str, Bools]:
    """Masks of parts of an array ``[B, H, W, n]`` by name, which broadcast to its shape.

    Args:
        shape: shape of the array.
        cells: number of pixels of a cell along each axis.
        radius: radius of the reassembly kernel, in cells.
    """
    row_cells, column_cells = (
        np.arange(n) // cell for n, cell in zip(shape[1:3], cells, strict=True)
    )
    last_row, last_column = row_cells[-1], column_cells[-1]
    top_or_bottom = (row_cells < radius) | (row_cells > last_row - radius)
    left_or_right = (column_cells < radius) | (column_cells > last_column - radius)
    row_tiles, column_tiles = row_cells // TILE_CELLS, column_cells // TILE_CELLS
    cut = _cut(row_cells)[:, None] | _cut(column_cells)[None, :]
    odd = (row_tiles % 2 == 1)[:, None] | (column_tiles % 2 == 1)[None, :]
    return {
        "border": (top_or_bottom[:, None] | left_or_right[None, :])[None, :, :, None],
        "cut tiles": cut[None, :, :, None],
        "odd tiles": odd[None, :, :, None],
    }


def _cut(cells: npt.NDArray[np.intp]) -> Bools:
    """Whether each cell is in a tile that extends beyond the map."""
    full = (cells[-1] + 1) // TILE_CELLS * TILE_CELLS
    return cells >= full


def channel_parts(channels: int, step_channels: int) -> dict[str, Bools]:
    """Masks of parts of the channels of a map, which a block processes in steps."""
    step = np.arange(channels) // step_channels
    return {"last step": step == step[-1], "second slot": step % 2 == 1}


def describe(
    wrong: Bools,
    not_finite: Bools,
    cells: tuple[int, int],
    radius: int,
    step_channels: int | None,
) -> tuple[str, dict[str, Any]]:
    """Describes the share of wrong elements, in the whole array and in each part.

    For each part, it gives the share of the wrong elements and the share of all elements. If an
    error occurs only in one part, all wrong elements are in this part.

    Args:
        wrong: mask of the wrong elements, ``[B, H, W, n]``.
        not_finite: mask of the elements that are not finite, ``[B, H, W, n]``.
        cells: number of pixels of a cell along each axis.
        radius: radius of the reassembly kernel, in cells.
        step_channels: for a map, the number of channels that a block processes in one step;
            ``None`` for arrays of weights.

    Returns:
        A description in one line, and the shares.
    """
    named = parts(wrong.shape, cells, radius)
    if step_channels is not None:
        named |= channel_parts(wrong.shape[3], step_channels)
    count = int(wrong.sum())
    shares: dict[str, Any] = {
        "wrong": float(wrong.mean()),
        "not finite": float(not_finite.sum() / count) if count else 0.0,
    }
    shown = [f"{_percent(shares['wrong'])} wrong"]
    if not_finite.any():
        shown.append(f"{_percent(shares['not finite'])} of these not finite")
    for name, mask in named.items():
        whole = np.broadcast_to(mask, wrong.shape)
        share, usual = float((wrong & whole).sum() / max(count, 1)), float(whole.mean())
        shares[name] = {"of wrong": share, "of all": usual}
        shown.append(f"{name} {_percent(share)} (usual {_percent(usual)})")
    if step_channels is not None:
        blocks = [int(block) for block in np.unique(np.nonzero(wrong)[3] // 32)]
        shares["blocks of 32 channels"] = blocks
        if len(blocks) < -(-wrong.shape[3] // 32):
            shown.append(f"only blocks {blocks} of 32 channels")
    maps = [int(number) for number in np.unique(np.nonzero(wrong)[0])]
    shares["maps"] = maps[:16]
    if len(maps) < wrong.shape[0]:
        shown.append(f"only maps {maps[:16]}")
    return ", ".join(shown), shares


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
