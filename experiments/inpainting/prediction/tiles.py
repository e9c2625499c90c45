"""Divides an image of any size into overlapping tiles, and computes their weights."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

_BUCKETS = 4  # number of tile sizes along each axis for images that fit into one tile


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Sizes of tiles, in pixels.

    Attributes:
        side: side of a tile, at least twice ``2 * margin + ramp``.
        margin: width of the strip at the edge of a tile that is only context. Seams are invisible
            if the network's receptive field does not extend further than this.
        ramp: width of the strip in which two neighbouring tiles are blended.
    """

    side: int = 512
    margin: int = 64
    ramp: int = 64

    def __post_init__(self) -> None:
        """Raises ``ValueError`` if margins and ramps fill a tile."""
        for name, least in (("margin", 0), ("ramp", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.side < 2 * (2 * self.margin + self.ramp):
            raise ValueError(
                "side must be at least 2 * (2 * margin + ramp) = "
                f"{2 * (2 * self.margin + self.ramp)}, got {self.side}"
            )

    def side_for(self, stride: int) -> int:
        """The side, rounded up to a multiple of ``stride``, and at least ``2 * stride``."""
        return _round_up(max(self.side, 2 * stride), stride)

    def bucket(self, length: int, stride: int) -> int:
        """The length to which a side of an image is padded.

        Args:
            length: length of the side in pixels.
            stride: the result is a multiple of this.

        Returns:
            For a side that fits into a tile, the next quarter of a tile. Thus tiles have at most
            four heights and four widths, or 16 shapes. For a longer side the next multiple of
            ``stride``; its tiles have the full side.
        """
        side = self.side_for(stride)
        if length > side:
            return _round_up(length, stride)
        quarters = (_round_up(-(-side * n // _BUCKETS), stride) for n in range(1, _BUCKETS + 1))
        return next(quarter for quarter in quarters if quarter >= length)

    def spans(self, length: int, stride: int) -> Sequence["Span"]:
        """Divides one axis of an image into spans.

        Args:
            length: length of the axis in pixels.
            stride: all spans start at a multiple of this, so that all tiles downsample on the same
                grid.

        Returns:
            Spans of equal length, evenly spaced. At each pixel their weights sum to one.
        """
        padded = self.bucket(length, stride)
        side = min(padded, self.side_for(stride))
        step = (side - 2 * self.margin - self.ramp) // stride  # largest distance of two starts
        free = (padded - side) // stride
        count = 1 + (-(-free // step) if free else 0)
        starts = [stride * (free * n // max(1, count - 1)) for n in range(count)]
        # The ramp between two tiles is centred on the middle of their overlap. The differences
        # between consecutive ramps sum to one, even where ramps overlap.
        pixels = np.arange(padded) + 0.5
        ramps = [np.ones(padded)]
        for before, after in itertools.pairwise(starts):
            centre = (after + before + side) / 2
            ramps.append(np.clip((pixels - centre) / self.ramp + 0.5, 0, 1))
        ramps.append(np.zeros(padded))
        return [
            Span(
                start,
                min(start + side, length),
                (rising - falling)[start : start + side].astype(np.float32),
            )
            for start, (rising, falling) in zip(starts, itertools.pairwise(ramps), strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class Span:
    """The extent of a tile along one axis.

    Attributes:
        start: first pixel of the tile.
        stop: pixel after the tile's last pixel within the image.
        weight: weight of each pixel of the tile, including padding.
    """

    start: int
    stop: int
    weight: Float[np.ndarray, " side"]


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
