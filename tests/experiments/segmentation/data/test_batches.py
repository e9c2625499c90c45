import dataclasses
import pickle
from fractions import Fraction

import absl.flags
import grain
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from experiments.engine.config import ConfigError
from experiments.segmentation.data.batches import evaluation_batches, training_batches
from experiments.segmentation.data.shapes import training_shapes
from tests.experiments.segmentation.data.small_label_maps import (
    BAD_IMAGE,
    BAD_LABEL,
    CONFIG,
    CONFIGS,
    COUNT,
    CROP,
    data,
    evaluation,
    label_of,
    pixels_of,
    record_of,
    training,
)
from tests.experiments.segmentation.fake_label_maps import (
    make_label_maps,
    make_record,
    noise,
    random_label,
)

VIEWS = pytest.mark.parametrize("view", CONFIGS)


def assert_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def rows_of(batch):
    return [
        {name: array[row] for name, array in batch.items()} for row in range(len(batch["record"]))
    ]


def shapes(batch):
    return {name: (array.shape, array.dtype) for name, array in batch.items()}


@VIEWS
def test_a_training_batch_has_one_of_the_listed_shapes(view):
    config, found = CONFIGS[view], set()
    for number in range(60):
        batch = training(config=config)[number]
        shape = batch["image"].shape[1:3]
        found.add(shape)
        assert shapes(batch) == {
            "image": ((4, *shape, 3), np.uint8),
            "size": ((4, 2), np.int32),
            "label": ((4, *shape), np.uint8),
            "record": ((4,), np.int64),
            "unreadable": ((4, 4), np.int64),
        }
    assert found == {*training_shapes(config)}


def slow_nearest(length, resized):
    return [int((index + Fraction(1, 2)) * length / resized) for index in range(resized)]


def expected_size(label, shape, side):
    scale = min(side / min(label.shape), 200 / max(label.shape))
    scale = min(scale, shape[0] / label.shape[0], shape[1] / label.shape[1])
    return [int(length * scale + 0.5) for length in label.shape]


def check_example(example):
    """Compares a resized example with its record, independently; returns whether it is mirrored."""
    pixels, label = pixels_of(int(example["record"])), label_of(int(example["record"]))
    shape, (height, width) = example["label"].shape, example["size"]
    resized = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    rows, columns = slow_nearest(label.shape[0], height), slow_nearest(label.shape[1], width)
    classes = np.array([[label[row, column] for column in columns] for row in rows])
    flip = not np.array_equal(example["image"][:height, :width], resized)
    order = slice(None, None, -1 if flip else 1)
    image, expected = np.zeros((*shape, 3)), np.full(shape, 255)
    image[:height, :width] = resized[:, order]
    expected[:height, :width] = classes[:, order]
    np.testing.assert_array_equal(example["image"], image)
    np.testing.assert_array_equal(example["label"], expected)
    return flip


def test_examples_are_their_records_resized_and_half_of_them_mirrored():
    flips = [check_example(row) for number in range(50) for row in rows_of(training()[number])]
    assert 0.4 < np.mean(flips) < 0.6


def side_of(batch):
    """The shorter side to which all images of a batch were scaled; there must be exactly one."""
    shape = batch["label"].shape[1:]
    (side,) = (
        side
        for side in CONFIG.shorter_sides
        if -(-side // 32) * 32 == min(shape)
        and all(
            expected_size(label_of(int(record)), shape, side) == size.tolist()
            for record, size in zip(batch["record"], batch["size"], strict=True)
        )
    )
    return side


def test_the_shorter_side_is_drawn_once_for_each_batch():
    sides = [side_of(training()[number]) for number in range(90)]
    for side in CONFIG.shorter_sides:
        assert 18 <= sides.count(side) <= 42
    other = [side_of(training(seed=1)[number]) for number in range(90)]
    assert sides != other


def test_flips_can_be_switched_off():
    config = dataclasses.replace(CONFIG, flip=False)
    for number in range(5):
        assert not any(check_example(row) for row in rows_of(training(config=config)[number]))


def test_crops_are_mirrored_together_with_their_label_maps():
    # Red and the class encode the column.
    columns = np.broadcast_to(np.arange(40, dtype=np.uint8), (28, 40))
    image = np.stack([columns * 5, columns, columns], axis=-1)
    unlike = make_label_maps([make_record(0, image, columns)])
    config = dataclasses.replace(CROP, crop_scales=(1.0, 1.0))
    flips = []
    for number in range(40):
        for row in rows_of(training_batches(unlike, config, 4, 0)[number]):
            np.testing.assert_array_equal(row["image"][..., 0], row["label"] * 5)
            steps = {*np.diff(row["label"].astype(int), axis=1).ravel().tolist()}
            assert steps in ({1}, {-1})
            flips.append(steps == {-1})
    assert 0.35 < np.mean(flips) < 0.65


def test_crops_are_padded_at_the_bottom_and_right():
    sizes = set()
    for number in range(30):
        for row in rows_of(training(config=CROP)[number]):
            height, width = (int(length) for length in row["size"])
            sizes.add((height, width))
            outside = np.ones((24, 24), bool)
            outside[:height, :width] = False
            assert not row["image"][outside].any()
            assert (row["label"][outside] == 255).all()
            inside = row["image"][:height, :width]
            assert inside.any(axis=(1, 2)).all()
            assert inside.any(axis=(0, 2)).all()
    assert (24, 24) in sizes
    assert min(min(size) for size in sizes) < 20


@VIEWS
def test_distortion_changes_the_colours_of_images_and_nothing_else(view):
    plain, changed = (
        training(config=dataclasses.replace(CONFIGS[view], distort=distort))
        for distort in (False, True)
    )
    differ = []
    for number in range(20):
        for before, after in zip(rows_of(plain[number]), rows_of(changed[number]), strict=True):
            height, width = before["size"]
            for name in ("size", "label", "record"):
                np.testing.assert_array_equal(before[name], after[name])
            assert not after["image"][height:].any()
            assert not after["image"][:, width:].any()
            differ.append(not np.array_equal(before["image"], after["image"]))
    assert 0.8 < np.mean(differ) < 1  # one in 16 is not changed


@VIEWS
def test_random_changes_differ_between_epochs_and_seeds(view):
    views = set()
    for seed, epoch in ((0, 0), (0, 1), (0, 2), (1, 0)):
        dataset = training(1, seed, CONFIGS[view])
        batches = [dataset[COUNT * epoch + step] for step in range(COUNT)]
        labels = {int(batch["record"][0]): batch["label"].tolist() for batch in batches}
        views.add(str(sorted(labels.items())))
    assert len(views) == 4


@pytest.mark.parametrize(("view", "instead"), [("resize", [8, 17]), ("crop", [6, 13])])
def test_each_record_comes_once_an_epoch_and_unreadable_ones_are_replaced(view, instead, caplog):
    dataset = training(1, config=CONFIGS[view])
    for epoch in range(3):
        batches = [dataset[COUNT * epoch + step] for step in range(COUNT)]
        records = sorted(int(batch["record"][0]) for batch in batches)
        readable = [number for number in range(COUNT) if number not in (BAD_IMAGE, BAD_LABEL)]
        assert records == sorted([*readable, *instead])
        unreadable = [batch["unreadable"][0] for batch in batches if batch["unreadable"].max() >= 0]
        rows = sorted(row.tolist() for row in unreadable)
        assert rows == [[BAD_IMAGE, -1, -1, -1], [BAD_LABEL, -1, -1, -1]]
    assert "00000005.jpg" in caplog.text
    assert "00000012.jpg" in caplog.text


@VIEWS
def test_equal_seeds_give_equal_batches_and_different_seeds_different_ones(view):
    config = CONFIGS[view]
    assert_equal(training(seed=4, config=config)[7], training(seed=4, config=config)[7])
    first, second = (training(seed=seed, config=config)[0]["record"].tolist() for seed in (4, 5))
    assert first != second


@VIEWS
@given(batch=st.integers(0, 200), processes=st.sampled_from([1, 2, 4]))
def test_processes_share_the_batches_of_a_single_process(view, batch, processes):
    config = dataclasses.replace(CONFIGS[view], distort=True)
    training_whole, evaluation_whole = training(config=config), evaluation()
    number = batch % len(evaluation_whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "process_count", lambda: processes)
        for process in range(processes):
            patch.setattr(jax, "process_index", lambda process=process: process)
            assert len(evaluation()) == len(evaluation_whole)
            for whole, share, which in (
                (training_whole, training(config=config), batch),
                (evaluation_whole, evaluation(), number),
            ):
                every = slice(process, None, processes)
                expected = jax.tree.map(lambda array, every=every: array[every], whole[which])
                assert_equal(share[which], expected)


@pytest.mark.parametrize("batch_size", [0, 7])
def test_a_batch_size_that_is_no_multiple_of_the_processes_is_refused(monkeypatch, batch_size):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    message = f"batch_size.* {batch_size}"
    for batches in (training, evaluation):
        with pytest.raises(ConfigError, match=message):
            batches(batch_size)


@VIEWS
def test_training_resumes_where_it_was(view):
    dataset = training(config=dataclasses.replace(CONFIGS[view], distort=True))
    batches = dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    iterator = iter(batches)
    for _ in range(9):
        next(iterator)
    state = iterator.get_state()
    expected = [next(iterator) for _ in range(3)]
    resumed = iter(batches)
    resumed.set_state(state)
    for number, batch in enumerate(expected):
        assert_equal(next(resumed), batch)
        assert_equal(dataset[9 + number], batch)


@pytest.mark.slow
def test_worker_processes_give_the_same_batches():
    if not absl.flags.FLAGS.is_parsed():  # absl.app.run does this in programs
        absl.flags.FLAGS.mark_as_parsed()
    for dataset in (training(config=dataclasses.replace(CROP, distort=True)), evaluation()):
        options = grain.MultiprocessingOptions(num_workers=2)
        iterator = iter(dataset.to_iter_dataset().mp_prefetch(options))
        for number in range(5):
            assert_equal(next(iterator), dataset[number])
        iterator.close()


def test_the_dataset_can_be_pickled_for_the_workers():
    for dataset in (training(), training(config=CROP), evaluation()):
        assert_equal(pickle.loads(pickle.dumps(dataset))[2], dataset[2])


@VIEWS
def test_a_label_map_without_any_class_is_trained_on(view):
    unlabelled = make_label_maps([make_record(0, noise(20, 30), np.full((20, 30), 255, np.uint8))])
    batch = training_batches(unlabelled, CONFIGS[view], 4, 0)[2]
    assert (batch["label"] == 255).all()
    assert batch["record"].tolist() == [0] * 4
    assert batch["unreadable"].shape == (4, 1)
    assert (batch["unreadable"] == -1).all()
    assert batch["image"].any()


@VIEWS
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 301)])
def test_images_of_any_aspect_ratio_can_be_used(view, size):
    thin = make_label_maps([make_record(0, noise(*size), random_label(*size, 3, unlabelled=0))] * 2)
    config = dataclasses.replace(CONFIGS[view], distort=True)
    for number in range(4):
        batch = training_batches(thin, config, 2, 0)[number]
        assert batch["image"].shape[1:3] in training_shapes(config)
        assert (batch["size"] >= 1).all()
        assert (batch["label"][:, 0, 0] < 3).all()


@VIEWS
def test_grey_jpegs_can_be_used(view):
    record = make_record(
        0, np.full((20, 30), 77, np.uint8), np.zeros((20, 30), np.uint8), image_format="JPEG"
    )
    data = make_label_maps([record], [record])
    batch = training_batches(data, CONFIGS[view], 2, 0)[0]
    assert (batch["image"][batch["label"] == 0] == 77).all()
    (image,) = evaluation_batches(data, CONFIG, 1)[0]["images"]
    assert (image == 77).all()


def test_an_image_of_another_size_than_its_record_says_is_unreadable():
    records = [record_of(0), {**record_of(10), "height": 17}]
    batch = training_batches(make_label_maps(records), CONFIG, 2, 0)[0]
    assert batch["record"].tolist() == [0, 0]
    assert batch["unreadable"].max() == 1


def test_sizes_of_another_number_of_records_are_refused():
    wrong = dataclasses.replace(
        data(), sizes={split: sizes[:3] for split, sizes in data().sizes.items()}
    )
    with pytest.raises(ValueError, match=r"sizes of train .*25 .* 3$"):
        training_batches(wrong, CONFIG, 2, seed=0)
    with pytest.raises(ValueError, match=r"sizes of validation .*23 .* 3$"):
        evaluation_batches(wrong, CONFIG, 2)
