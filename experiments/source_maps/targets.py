"""Chooses the target pixels that figures show."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from experiments.source_maps.instances import OUTSIDE, at_targets

Kind = Literal["inside", "border", "background"]


class Target(NamedTuple):
    """A target pixel.

    Attributes:
        row: row in the target map.
        column: column in the target map.
        kind: ``"inside"``: it and its eight neighbours belong to an object. ``"border"``: it
            belongs to an object, and a neighbour does not. ``"background"``: it belongs to no
            object.
        instance: number of the object in the instance map, 0 for the background.
    """

    row: int
    column: int
    kind: Kind
    instance: int


def choose_targets(
    instances: Int[np.ndarray, "height width"], stride: int, map_size: tuple[int, int], most: int
) -> list[Target]:
    """Chooses targets inside objects, at the borders of objects, and in the background.

    The choice depends only on the arguments. Inside objects and in the background, the first target
    is a pixel that is farthest from borders and from the edge of the image. Each object has a
    target before any has a second one, and large objects are first. Targets of one object, and in
    the background, are far from each other.

    Args:
        instances: number of the object at each pixel of the image, 0 for the background.
        stride: stride of the target map, in pixels of the image.
        map_size: height and width of the target map.
        most: largest number of targets of each kind.

    Returns:
        Targets, ordered by kind. There are fewer than ``most`` of a kind if there are fewer pixels
        of that kind. If no pixel belongs to an object, targets are from :func:`grid_targets`.
    """
    numbers = at_targets(instances, stride, map_size)
    inner = _inner(numbers)
    depth = _depth(inner & (numbers != OUTSIDE))
    present, areas = np.unique(numbers[numbers > 0], return_counts=True)
    ordered = present[np.argsort(-areas, kind="stable")].tolist()
    chosen: list[Target] = []
    for kind in ("inside", "border"):
        candidates = [(numbers == n) & (inner == (kind == "inside")) for n in ordered]
        taken = [[t[:2] for t in chosen if t.instance == number] for number in ordered]
        count = 0
        while count < most and any(candidate.any() for candidate in candidates):
            for number, candidate, near in zip(ordered, candidates, taken, strict=True):
                if count < most and candidate.any():
                    row, column = _next(candidate, depth if kind == "inside" else None, near)
                    near.append((row, column))
                    candidate[row, column] = False
                    chosen.append(Target(row, column, kind, number))
                    count += 1
    if not chosen:
        return grid_targets(instances.shape, stride)
    background, near = numbers == 0, list[tuple[int, int]]()
    while len(near) < most and background.any():
        row, column = _next(background, depth, near)
        near.append((row, column))
        background[row, column] = False
        chosen.append(Target(row, column, "background", 0))
    return chosen


def grid_targets(
    image_size: tuple[int, int], stride: int, rows: int = 2, columns: int = 3
) -> list[Target]:
    """Returns background targets on a grid over the image, for an image without objects.

    Args:
        image_size: height and width of the image, in pixels.
        stride: stride of the target map, in pixels of the image.
        rows: number of rows of the grid.
        columns: number of columns of the grid.
    """
    down, across = (
        sorted({int((index + 0.5) * side / count) // stride for index in range(count)})
        for side, count in zip(image_size, (rows, columns), strict=True)
    )
    return [Target(row, column, "background", 0) for row in down for column in across]


def _next(
    candidates: Bool[np.ndarray, "rows columns"],
    depth: Int[np.ndarray, "rows columns"] | None,
    near: list[tuple[int, int]],
) -> tuple[int, int]:
    """Returns the candidate that is farthest from the pixels ``near`` and, with a depth, deep."""
    score = np.zeros(candidates.shape) if depth is None else 2.0 * (1 + depth)
    if near:
        pixels = np.moveaxis(np.indices(candidates.shape), 0, -1)  # [rows, columns, 2]
        offsets = pixels[:, :, None] - np.array(near)
        distance = np.sqrt((offsets**2).sum(axis=-1)).min(axis=-1)
        score = distance if depth is None else np.minimum(distance, score)
    row, column = np.unravel_index(np.where(candidates, score, -1).argmax(), candidates.shape)
    return int(row), int(column)


def _inner(numbers: Int[np.ndarray, "rows columns"]) -> Bool[np.ndarray, "rows columns"]:
    """Whether the eight neighbours of a pixel belong to the same object, or are outside."""
    same = [(each == numbers) | (each == OUTSIDE) for each in _neighbours(numbers)]
    return np.all(same, axis=0)


def _depth(inner: Bool[np.ndarray, "rows columns"]) -> Int[np.ndarray, "rows columns"]:
    """Returns the distance from each inner pixel to a pixel that is not inner, or to the edge."""
    depth = np.zeros(inner.shape, np.int64)
    while inner.any():
        depth += inner
        padded = np.pad(inner, 1)
        inner = inner & np.all([each[1:-1, 1:-1] for each in _neighbours(padded)], axis=0)
    return depth


def _neighbours(values: np.ndarray) -> list[np.ndarray]:
    """Returns the values of the eight neighbours; outside the map, of the nearest pixel inside."""
    padded = np.pad(values, 1, mode="edge")
    height, width = values.shape
    offsets = [(row, column) for row in range(3) for column in range(3) if (row, column) != (1, 1)]
    return [padded[row : row + height, column : column + width] for row, column in offsets]
