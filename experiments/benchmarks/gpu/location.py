"""Where results are wrong: what of an array distinguishes the kernels' possible mistakes."""

from typing import Any

import numpy as np
import numpy.typing as npt

TILE_CELLS = 8  # along an axis of most tiles

Bools = npt.NDArray[np.bool_]


def parts(shape: tuple[int, ...], cells: tuple[int, int], radius: int) -> dict[str, Bools]:
    """Parts of an array ``[B, H, W, n]`` by name, as masks that broadcast to its shape.

    Args:
        shape: of the array.
        cells: pixels of a cell along each axis.
        radius: of the taps, in cells.
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
    """Whether cells lie in a tile that reaches over the end of the map."""
    full = (cells[-1] + 1) // TILE_CELLS * TILE_CELLS
    return cells >= full


def channel_parts(channels: int, step_channels: int) -> dict[str, Bools]:
    """Parts of the channels of a map, as :func:`parts`, in steps of ``step_channels``."""
    step = np.arange(channels) // step_channels
    return {"last step": step == step[-1], "second slot": step % 2 == 1}


def describe(
    wrong: Bools,
    not_finite: Bools,
    cells: tuple[int, int],
    radius: int,
    step_channels: int | None,
) -> tuple[str, dict[str, Any]]:
    """What share of ``[B, H, W, n]`` is wrong, and what share of that lies in each part.

    Beside each stands the share that the part has of the array: mistakes that keep to a part have
    all of theirs in it.

    Args:
        wrong: which elements are.
        not_finite: which elements are no number.
        cells: pixels of a cell along each axis.
        radius: of the taps, in cells.
        step_channels: of a map, how many channels a block takes at a time; ``None`` for arrays of
            weights.

    Returns:
        a line for people, and the shares.
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
        shown.append(f"{_percent(shares['not finite'])} of it not finite")
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
