import numpy as np

from experiments.source_maps.instances import instance_map
from experiments.source_maps.targets import choose_targets, grid_targets


def instances():
    """A large object of 24x24 pixels and a small one of 12x12 pixels."""
    large, small = np.zeros((2, 48, 64), bool)
    large[4:28, 4:28] = True
    small[32:44, 44:56] = True
    return instance_map([small, large], (48, 64))


def test_targets_are_spread_over_objects_the_largest_first():
    targets = choose_targets(instances(), 4, (12, 16), most=3)
    assert [(target.kind, target.instance) for target in targets] == [
        ("inside", 2), ("inside", 1), ("inside", 2),
        ("border", 2), ("border", 1), ("border", 2),
        ("background", 0), ("background", 0), ("background", 0),
    ]  # fmt: skip
    # The middle of each object; a pixel of the map is a square of 4x4 pixels.
    assert targets[0][:2] == (3, 3)
    assert targets[1][:2] == (9, 12)
    numbers = np.asarray(instances())[2::4, 2::4]
    for row, column, kind, number in targets:
        assert numbers[row, column] == number
        around = numbers[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        if number:
            assert (around == number).all() == (kind == "inside")
    assert targets == choose_targets(instances(), 4, (12, 16), most=3)
    assert len({target[:2] for target in targets}) == len(targets)


def test_the_padding_and_missing_kinds_have_no_targets():
    found = choose_targets(np.ones((16, 16), np.int32), 4, (8, 8), most=30)
    assert {target.kind for target in found} == {"inside"}
    assert max(target.row for target in found) == 3
    assert len(found) == 16


def test_targets_on_a_grid():
    assert [target[:2] for target in grid_targets((40, 60), 4)] == [
        (2, 2), (2, 7), (2, 12), (7, 2), (7, 7), (7, 12),
    ]  # fmt: skip
    nothing = np.zeros((40, 60), np.int32)
    assert choose_targets(nothing, 4, (10, 15), most=1) == grid_targets((40, 60), 4)
