"""Where a picture of any size is cut into tiles, and how much of each is used."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

_BUCKETS = 4


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Sizes of tiles, in pixels.

    Attributes:
        side: of a tile; at least twice ``2 * margin + ramp``.
        margin: next to a cut, what of a tile is context only. Nothing of a cut is to be seen where
            the network sees no further than this.
        ramp: width of the strip, at a cut, in which one tile gives way to the next.
    """

    side: int = 512
    margin: int = 64
    ramp: int = 64

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for tiles of which nothing is left."""
        for name, least in (("margin", 0), ("ramp", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.side < 2 * (2 * self.margin + self.ramp):
            raise ValueError(
                "side must be at least 2 * (2 * margin + ramp) = "
                f"{2 * (2 * self.margin + self.ramp)}, got {self.side}"
            )

    def side_for(self, stride: int) -> int:
        """The side as a multiple of ``stride``, and at least two, so that tiles can overlap."""
        return _up(max(self.side, 2 * stride), stride)

    def bucket(self, length: int, stride: int) -> int:
        """What a picture's side is padded to.

        Args:
            length: of the side.
            stride: of which the result is a multiple.

        Returns:
            For a side that fits into a tile, the next quarter of a tile: tiles have four heights
            and four widths at most, and so 16 shapes. For a longer side the next multiple of
            ``stride``; its tiles have the full side.
        """
        side = self.side_for(stride)
        if length > side:
            return _up(length, stride)
        quarters = (_up(-(-side * n // _BUCKETS), stride) for n in range(1, _BUCKETS + 1))
        return next(quarter for quarter in quarters if quarter >= length)

    def spans(self, length: int, stride: int) -> Sequence["Span"]:
        """Cuts one axis of a picture.

        Args:
            length: of the axis.
            stride: of which all spans start at a multiple, so that all halve the same pixels.

        Returns:
            Spans of one length, evenly spread. At each pixel their weights sum to one.
        """
        padded = self.bucket(length, stride)
        side = min(padded, self.side_for(stride))
        most = (side - 2 * self.margin - self.ramp) // stride  # from one start to the next
        free = (padded - side) // stride
        count = 1 + (-(-free // most) if free else 0)
        starts = [stride * (free * n // max(1, count - 1)) for n in range(count)]
        # Tile n takes over from tile n - 1 around the middle of what both cover. Differences of
        # one such ramp and the next sum to one, even where ramps overlap.
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
    """What a tile takes of one axis.

    Attributes:
        start: its first pixel.
        stop: the pixel after the last one that lies within the picture.
        weight: of each of its pixels, padding included, beside those of other spans.
    """

    start: int
    stop: int
    weight: Float[np.ndarray, " side"]


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
