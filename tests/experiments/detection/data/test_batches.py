import functools
import pickle

import absl.flags
import grain
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from experiments.data.errors import DataError
from experiments.detection.data.batches import evaluation_batches, training_batches
from experiments.detection.data.config import DataConfig
from experiments.detection.data.object_masks import box_mask, decode_mask
from experiments.detection.data.record_index import index_records
from experiments.engine.config import ConfigError
from tests.experiments.detection.fake_records import make_record, noise

CONFIG = DataConfig(shorter=24, longer=40, max_objects=4, mask_side=6)
LANDSCAPE, PORTRAIT = (32, 64), (64, 32)
UNREADABLE, EMPTY, CROWD = 5, 7, 9
COUNT = 24
# Number of bytes cut off at the end of an image; few, so that the header stays intact.
CUT = 40


def record_of(number):
    rng = np.random.default_rng(number)
    height, width = (18, 30) if number % 3 else (30, 20)
    objects = 0 if number == EMPTY else 1 + number % 3
    starts = rng.uniform(0, [width / 2, height / 2], (objects, 2))
    sizes = rng.uniform(3, [width / 2, height / 2], (objects, 2))
    masks = rng.integers(0, 2, (objects, height, width))
    record = make_record(
        500 + number,
        noise(height, width, number),
        np.concatenate([starts, sizes], axis=1),
        crowd=[number == CROWD] * objects,
        masks=masks,
    )
    if number == UNREADABLE:
        record["image"] = record["image"][:-CUT]
    return record


@functools.cache
def data():
    """Small images in both buckets: one unreadable, one without objects, one with only a crowd."""
    source = [record_of(number) for number in range(COUNT)]
    return source, index_records(source)


USABLE = [number for number in range(COUNT) if number not in (EMPTY, CROWD)]


def training(batch_size=4, seed=0, config=CONFIG):
    return training_batches(*data(), config, batch_size, seed)


def evaluation(batch_size=4, config=CONFIG):
    return evaluation_batches(*data(), config, batch_size)


def assert_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def shapes(batch):
    return {name: (array.shape, array.dtype) for name, array in batch.items()}


def test_a_training_batch():
    found = set()
    for number in range(12):
        batch = training()[number]
        found.add(batch["image"].shape)
        assert shapes(batch) == {
            "image": (batch["image"].shape, np.uint8),
            "size": ((4, 2), np.int32),
            "boxes": ((4, 4, 4), np.float32),
            "labels": ((4, 4), np.int32),
            "crowd": ((4, 4), bool),
            "masks": ((4, 4, 6, 6), np.uint8),
            "record": ((4,), np.int64),
            "unreadable": ((4, 4), np.int64),
        }
    assert found == {(4, *LANDSCAPE, 3), (4, *PORTRAIT, 3)}


def test_without_mask_side_a_batch_has_no_masks():
    config = DataConfig(shorter=24, longer=40, max_objects=4)
    assert "masks" not in training(config=config)[0]


def test_examples_are_their_records_resized_and_half_of_them_mirrored():
    flips = []
    for number in range(20):
        batch = training()[number]
        for row, record in enumerate(batch["record"]):
            flips.append(check_example({name: array[row] for name, array in batch.items()}, record))
    assert 0.3 < np.mean(flips) < 0.7


def check_example(example, number):
    """Compares an example with its record, independently; returns whether it is mirrored."""
    record = data()[0][number]
    height, width = example["size"]
    scale = min(24 / min(record["height"], record["width"]), 40 / 30)
    assert (height, width) == (round(record["height"] * scale), round(record["width"] * scale))
    pixels = Image.fromarray(noise(record["height"], record["width"], number))
    pixels = np.asarray(pixels.resize((width, height), Image.Resampling.BILINEAR))
    shown = example["image"][:height, :width]
    assert example["image"].sum(dtype=int) == shown.sum(dtype=int)
    flip = not np.array_equal(shown, pixels)
    np.testing.assert_array_equal(shown, pixels[:, ::-1] if flip else pixels)
    objects = record["objects"]
    count = len(objects["id"])
    np.testing.assert_array_equal(example["labels"], [*objects["label"], *[-1] * (4 - count)])
    for row in range(count):
        x, y, w, h = objects["bbox"][row]
        x, y, w, h = np.array([x, y, w, h]) * (
            [width / record["width"], height / record["height"]] * 2
        )
        x = width - x - w if flip else x
        np.testing.assert_allclose(example["boxes"][row], [x, y, x + w, y + h], atol=1e-4)
        mask = decode_mask(objects["segmentation"][row], record["height"], record["width"])
        x, y, w, h = objects["bbox"][row]
        mask = box_mask(mask, np.array([x, y, x + w, y + h]), 6)
        np.testing.assert_array_equal(example["masks"][row], mask[:, ::-1] if flip else mask)
    assert not example["boxes"][count:].any()
    assert not example["masks"][count:].any()
    return flip


def test_flips_can_be_switched_off():
    config = DataConfig(shorter=24, longer=40, max_objects=4, mask_side=6, flip=False)
    for number in range(5):
        batch = training(config=config)[number]
        for row, record in enumerate(batch["record"]):
            example = {name: array[row] for name, array in batch.items()}
            assert not check_example(example, record)


def test_flips_differ_between_epochs_and_seeds():
    first = {}
    for seed, epoch in ((0, 0), (0, 1), (0, 2), (0, 3), (1, 0)):
        start = len(USABLE) * epoch
        dataset = training(1, seed)
        batches = [dataset[start + step] for step in range(len(USABLE))]
        first[seed, epoch] = {int(batch["record"][0]): batch["boxes"].tolist() for batch in batches}
    assert len({str(sorted(boxes.items())) for boxes in first.values()}) == 5


def test_each_usable_record_comes_once_an_epoch_and_an_unreadable_one_is_replaced():
    dataset = training(1)
    for epoch in range(3):
        batches = [dataset[len(USABLE) * epoch + step] for step in range(len(USABLE))]
        records = sorted(int(batch["record"][0]) for batch in batches)
        # Record 5 is replaced by 8, the next landscape record with objects: 6 is portrait, and 7
        # has no objects.
        assert records == sorted([n for n in USABLE if n != UNREADABLE] + [8])
        unreadable = [batch["unreadable"][0] for batch in batches if batch["unreadable"].max() >= 0]
        assert [row.tolist() for row in unreadable] == [[UNREADABLE, -1, -1, -1]]


def test_equal_seeds_give_equal_batches_and_different_seeds_different_ones():
    assert_equal(training(seed=4)[7], training(seed=4)[7])
    assert training(seed=4)[0]["record"].tolist() != training(seed=5)[0]["record"].tolist()


@given(batch=st.integers(0, 200), processes=st.sampled_from([1, 2, 4]))
def test_processes_share_the_batches_of_a_single_process(batch, processes):
    training_whole, evaluation_whole = training(), evaluation()
    number = batch % len(evaluation_whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "process_count", lambda: processes)
        for process in range(processes):
            patch.setattr(jax, "process_index", lambda process=process: process)
            assert len(evaluation()) == len(evaluation_whole)
            for whole, share, which in (
                (training_whole, training(), batch),
                (evaluation_whole, evaluation(), number),
            ):
                expected = {name: array[process::processes] for name, array in whole[which].items()}
                assert_equal(share[which], expected)


@pytest.mark.parametrize("batch_size", [0, 7])
def test_a_batch_size_that_is_no_multiple_of_the_processes_is_refused(monkeypatch, batch_size):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    message = f"batch_size.* {batch_size}"
    for batches in (training, evaluation):
        with pytest.raises(ConfigError, match=message):
            batches(batch_size)


def test_training_resumes_where_it_was():
    batches = training().to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    iterator = iter(batches)
    for _ in range(9):
        next(iterator)
    state = iterator.get_state()
    expected = [next(iterator) for _ in range(3)]
    resumed = iter(batches)
    resumed.set_state(state)
    for batch in expected:
        assert_equal(next(resumed), batch)
    for number, batch in enumerate(expected):
        assert_equal(training()[9 + number], batch)


@pytest.mark.slow
def test_worker_processes_give_the_same_batches():
    if not absl.flags.FLAGS.is_parsed():  # absl.app.run does this in programs
        absl.flags.FLAGS.mark_as_parsed()
    for dataset in (training(), evaluation()):
        options = grain.MultiprocessingOptions(num_workers=2)
        iterator = iter(dataset.to_iter_dataset().mp_prefetch(options))
        for number in range(5):
            assert_equal(next(iterator), dataset[number])
        iterator.close()


def test_the_dataset_can_be_pickled_for_the_workers():
    for dataset in (training(), evaluation()):
        assert_equal(pickle.loads(pickle.dumps(dataset))[2], dataset[2])


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_evaluation_has_every_record_once(batch_size):
    dataset = evaluation(batch_size)
    batches = [dataset[number] for number in range(len(dataset))]
    assert all(len(batch["record"]) == batch_size for batch in batches)
    order = [n for n in range(COUNT) if n % 3] + [n for n in range(COUNT) if n % 3 == 0]
    rows = [
        {name: array[row] for name, array in batch.items()}
        for batch in batches
        for row in range(batch_size)
    ]
    assert [int(row["record"]) for row in rows if row["record"] >= 0] == order
    landscape = [row["image"].shape[:2] == LANDSCAPE for row in rows]
    assert landscape == sorted(landscape, reverse=True)
    for row in rows:
        number = int(row["record"])
        if number < 0 or number == UNREADABLE:
            assert row["weight"] == 0
            assert not row["image"].any()
            assert row["size"].tolist() == list(row["image"].shape[:2])
            assert row["unreadable"].tolist() == [number if number == UNREADABLE else -1]
        else:
            record = data()[0][number]
            assert row["weight"] == 1
            assert row["original_size"].tolist() == [record["height"], record["width"]]
            assert row["size"].tolist() == ([24, 40] if number % 3 else [36, 24])
            assert row["image"].any()
    assert sum(row["weight"] for row in rows) == COUNT - 1


def test_an_evaluation_batch():
    assert shapes(evaluation()[0]) == {
        "image": ((4, *LANDSCAPE, 3), np.uint8),
        "size": ((4, 2), np.int32),
        "original_size": ((4, 2), np.int32),
        "weight": ((4,), np.float32),
        "record": ((4,), np.int64),
        "unreadable": ((4, 1), np.int64),
    }


@pytest.mark.parametrize("remainder", [[0], [1, 2]])
def test_a_dataset_with_a_single_bucket(remainder):
    source = [record_of(number) for number in range(12) if number % 3 in remainder]
    index = index_records(source)
    assert len(evaluation_batches(source, index, CONFIG, 2)) == len(source) // 2
    batch = training_batches(source, index, CONFIG, 2, seed=0)[0]
    assert batch["image"].shape[1:3] == (PORTRAIT if remainder == [0] else LANDSCAPE)


def test_a_single_record_fills_batches():
    source = [record_of(1)]
    batch = training_batches(source, index_records(source), CONFIG, 4, seed=0)[3]
    assert batch["record"].tolist() == [0] * 4
    assert batch["unreadable"].shape == (4, 1)


def test_max_objects_may_be_300_and_a_smaller_limit_is_refused():
    pixels = noise(18, 30)
    source = [record_of(1), make_record(42, pixels, [[n % 20, n % 11, 2, 2] for n in range(300)])]
    index = index_records(source)
    config = DataConfig(shorter=24, longer=40, max_objects=300)
    dataset = training_batches(source, index, config, 2, seed=0)
    batch = dataset[0]
    full = batch["labels"][batch["record"].tolist().index(1)]
    assert full.tolist() == list(range(300))
    message = r"max_objects.* 300.*image 42.* 299$"
    config = DataConfig(shorter=24, longer=40, max_objects=299)
    with pytest.raises(DataError, match=message):
        training_batches(source, index, config, 2, seed=0)
    assert len(evaluation_batches(source, index, config, 2)) == 1


def test_a_dataset_without_objects_to_train_on_is_refused():
    source = [record_of(EMPTY), record_of(CROWD)]
    with pytest.raises(DataError, match=r"object.* none .*2"):
        training_batches(source, index_records(source), CONFIG, 2, seed=0)
    assert len(evaluation_batches(source, index_records(source), CONFIG, 1)) == 2


def test_the_index_of_another_split_is_refused():
    source, index = data()
    with pytest.raises(ValueError, match=r"index.* 3 .* 24"):
        training_batches(source[:3], index, CONFIG, 2, seed=0)
    with pytest.raises(ValueError, match=r"index.* 3 .* 24"):
        evaluation_batches(source[:3], index, CONFIG, 2)
