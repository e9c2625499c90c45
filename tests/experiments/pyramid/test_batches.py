import numpy as np
import pytest

from experiments.engine.batch_fields import RECORD, UNREADABLE
from experiments.pyramid.batches import training_batches
from tests.experiments.pyramid.tiny import TINY


def taken(features, count, seed=0):
    dataset = training_batches(features, 2, seed)
    return [dataset[index] for index in range(count)]


def test_every_image_is_in_each_epoch_with_its_own_maps_and_label(features):
    groups = features.groups["train"]
    rows = {int(number): group[row] for group in groups for row, number in enumerate(group.numbers)}
    assert len(rows) == TINY.scenes.training_images
    counts = dict.fromkeys(rows, 0)
    # Epochs of a group continue within a batch, so that the number of batches is exact.
    for batch in taken(features, len(rows)):
        assert batch[UNREADABLE].tolist() == [[-1], [-1]]
        for index, number in enumerate(batch[RECORD].tolist()):
            counts[number] += 1
            right = rows[number]
            np.testing.assert_array_equal(batch["label"][index], right["label"])
            for found, expected in zip(batch["maps"], right["maps"], strict=True):
                np.testing.assert_array_equal(found[index], expected)
    assert set(counts.values()) == {2}


def test_the_order_depends_on_the_seed_alone(features):
    orders = [
        np.concatenate([batch[RECORD] for batch in taken(features, 12, seed)]).tolist()
        for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_both_sizes_are_trained(features):
    shapes = {batch["label"].shape for batch in taken(features, 6)}
    assert shapes == {(2, 72, 96), (2, 96, 72)}


def test_a_batch_has_the_maps_of_one_size(features):
    for batch in taken(features, 6):
        height, width = batch["label"].shape[1:]
        for stride, channels, maps in zip(
            (4, 8, 16, 32), (24, 32, 96, 320), batch["maps"], strict=True
        ):
            assert maps.shape == (2, -(-height // stride), -(-width // stride), channels)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_numbers_of_a_split_are_complete(features, split):
    numbers = np.concatenate([group.numbers for group in features.groups[split]])
    assert sorted(numbers.tolist()) == list(range(features.count(split)))
