"""A small dataset of images with label maps, some of them unreadable, and its batches."""

import dataclasses
import functools

from experiments.segmentation.data.batches import evaluation_batches, training_batches
from experiments.segmentation.data.config import DataConfig
from tests.experiments.segmentation.fake_label_maps import (
    make_label_maps,
    make_record,
    noise,
    random_label,
)

CONFIG = DataConfig(
    shorter_sides=(20, 40, 70),
    longer=200,
    aspects=(1.5, 2.0),
    crop_side=24,
    crop_shorter=28,
    test_shorter=40,
)
CROP = dataclasses.replace(CONFIG, augmentation="crop")
CONFIGS = {"resize": CONFIG, "crop": CROP}

# Landscape, higher than the last aspect ratio, wide, square, and portrait.
SIZES = [(18, 26), (40, 15), (12, 23), (22, 22), (30, 20)]
COUNT = 25
BAD_IMAGE, BAD_LABEL, UNLABELLED = 5, 12, 8


def pixels_of(number):
    height, width = SIZES[number % len(SIZES)]
    return noise(height, width, number)


def label_of(number):
    height, width = SIZES[number % len(SIZES)]
    return random_label(height, width, 5, number, unlabelled=1 if number == UNLABELLED else 0.1)


def record_of(number):
    record = make_record(number, pixels_of(number), label_of(number))
    for bad, field in ((BAD_IMAGE, "image"), (BAD_LABEL, "label")):
        if number == bad:
            record[field] = record[field][:-40]  # the header stays intact
    return record


@functools.cache
def data():
    """Small images of five sizes; one image and one label map are unreadable."""
    records = [record_of(number) for number in range(COUNT)]
    return make_label_maps(records, records[: COUNT - 2])


def training(batch_size=4, seed=0, config=CONFIG):
    return training_batches(data(), config, batch_size, seed)


def evaluation(batch_size=4, config=CONFIG, scales=(1.0, 0.5)):
    return evaluation_batches(data(), config, batch_size, scales)
