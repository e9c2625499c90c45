import jax
import numpy as np
import pytest
from PIL import Image

from experiments.segmentation.data.batches import evaluation_batches
from experiments.segmentation.data.shapes import evaluation_shapes
from tests.experiments.segmentation.data.small_label_maps import (
    BAD_IMAGE,
    CONFIG,
    COUNT,
    SIZES,
    data,
    evaluation,
    pixels_of,
)


def evaluation_shape(size, shorter, longer):
    scale = min(shorter / min(size), longer / max(size))
    return tuple(-(-int(length * scale) // 32) * 32 for length in size)


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_evaluation_has_every_record_once_resized_to_each_scale(batch_size):
    dataset = evaluation(batch_size)
    batches = [dataset[number] for number in range(len(dataset))]
    rows = []
    for batch in batches:
        assert all(len(images) == batch_size for images in batch["images"])
        for row in range(batch_size):
            rows.append(jax.tree.map(lambda array, row=row: array[row], batch))
    numbers = [int(row["record"]) for row in rows if row["record"] >= 0]
    assert sorted(numbers) == list(range(COUNT - 2))
    for row in rows:
        number = int(row["record"])
        first, second = row["images"]
        assert row["unreadable"].tolist() == [number if number == BAD_IMAGE else -1]
        if number < 0 or number == BAD_IMAGE:
            assert row["weight"] == 0
            assert not first.any()
            assert not second.any()
            continue
        assert row["weight"] == 1  # label maps are not read
        size = SIZES[number % len(SIZES)]
        for image, shape in (
            (first, evaluation_shape(size, 40, 200)),
            (second, evaluation_shape(size, 20, 100)),
        ):
            assert image.shape == (*shape, 3)
            resized = Image.fromarray(pixels_of(number)).resize(
                shape[::-1], Image.Resampling.BILINEAR
            )
            np.testing.assert_array_equal(image, np.asarray(resized))


def test_evaluation_batches_are_in_ascending_order_of_their_shapes_and_of_the_records():
    dataset = evaluation()
    batches = [dataset[number] for number in range(len(dataset))]
    order = [tuple(images.shape[1:3] for images in batch["images"]) for batch in batches]
    assert order == sorted(order)
    assert tuple(dict.fromkeys(order)) == evaluation_shapes(
        data().sizes["validation"], CONFIG, (1.0, 0.5)
    )
    for shape in {*order}:
        found = [
            batch["record"] for batch, each in zip(batches, order, strict=True) if each == shape
        ]
        numbers = [number for number in np.concatenate(found).tolist() if number >= 0]
        assert numbers == sorted(numbers)


def test_an_evaluation_batch():
    dataset = evaluation_batches(data(), CONFIG, 4, split="train")
    batch = dataset[0]
    assert sum(int((dataset[n]["record"] >= 0).sum()) for n in range(len(dataset))) == COUNT
    (images,) = batch.pop("images")
    assert (images.shape, images.dtype) == ((4, 64, 64, 3), np.uint8)
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
        "weight": ((4,), np.float32),
        "record": ((4,), np.int64),
        "unreadable": ((4, 1), np.int64),
    }
