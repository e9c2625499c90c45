"""Compares the input pipeline with Pillow: `python -m experiments.benchmarks.input_pipeline`.

The benchmark makes JPEGs of 500x375, ImageNet's usual size, from photographs, and writes them as a
tfds dataset into a temporary folder. It prints a table in Markdown: images per second of the
training pipeline and of Pillow alone on the same bytes, measured in turns. The result is
pessimistic for the pipeline: grain's shuffle takes 0.1 ms per image with a few hundred records, and
5 us with ImageNet's.
"""

import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import absl.flags
import grain
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from experiments.benchmarks.markdown import print_table
from experiments.benchmarks.timing import check_rounds
from experiments.classification.batches import ClassificationData, open_folder, training_batches
from experiments.classification.data_config import DataConfig
from experiments.classification.images import decode_image, training_crop
from experiments.data.composed.photographs import pypi_photographs
from experiments.engine.command_line import run_program

_WIDTH, _HEIGHT = 500, 375
_QUALITY = 97  # gives about ImageNet's 110 kB per image
_BATCH_SIZE = 32
_BUFFERED_BATCHES = 4  # at most, per worker; these are not timed

DECODE = "Pillow, decode"
DECODE_AND_CROP = "Pillow, decode and crop"
IN_PROCESS = "pipeline, this process"
IN_WORKERS = "pipeline, worker processes"


class Jpegs(tfds.core.GeneratorBasedBuilder):
    """A dataset of random views of photographs, with ImageNet's features.

    Args:
        count: number of training images.
        options: keyword arguments of the tfds builder.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, count: int, **options: Any) -> None:
        self._count = count
        super().__init__(file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(names=["photograph"]),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        return {
            "train": self._generate_examples(self._count),
            "validation": self._generate_examples(1),
        }

    def _generate_examples(self, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
        photographs = []
        for photograph in pypi_photographs():
            with Image.open(photograph.path) as opened:
                photographs.append(opened.convert("RGB"))
        rng = np.random.default_rng(0)
        for number in range(count):
            image = photographs[number % len(photographs)]
            scale = rng.uniform(0.6, 1) * min(image.width / _WIDTH, image.height / _HEIGHT)
            width, height = _WIDTH * scale, _HEIGHT * scale
            left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
            view = image.resize(
                (_WIDTH, _HEIGHT),
                Image.Resampling.LANCZOS,
                box=(left, top, left + width, top + height),
            )
            encoded = io.BytesIO()
            view.save(encoded, format="jpeg", quality=_QUALITY)
            encoded.seek(0)
            yield number, {"image": encoded, "label": 0}


def measurements(data: ClassificationData, workers: int) -> dict[str, Callable[[], float]]:
    """Functions that process the training images once and return images per second."""
    config = DataConfig()
    encoded = [data.train[number]["image"] for number in range(len(data.train))]
    rng = np.random.default_rng(0)
    batch_size = min(_BATCH_SIZE, len(encoded))
    batches = training_batches(data, config, batch_size, seed=0)
    batches_per_turn = len(encoded) // batch_size

    def decode() -> float:
        began = time.perf_counter()
        for image in encoded:
            decode_image(image)
        return len(encoded) / (time.perf_counter() - began)

    def decode_and_crop() -> float:
        began = time.perf_counter()
        for image in encoded:
            training_crop(decode_image(image), rng, config)
        return len(encoded) / (time.perf_counter() - began)

    def in_process() -> float:
        began = time.perf_counter()
        for number in range(batches_per_turn):
            batches[number]
        return batches_per_turn * batch_size / (time.perf_counter() - began)

    def in_workers() -> float:
        options = grain.MultiprocessingOptions(num_workers=workers)
        reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        iterator = iter(batches.to_iter_dataset(reading).mp_prefetch(options))
        for _ in range(workers * _BUFFERED_BATCHES):
            next(iterator)
        began = time.perf_counter()
        for _ in range(batches_per_turn):
            next(iterator)
        rate = batches_per_turn * batch_size / (time.perf_counter() - began)
        # An open iterator would fill its buffers during the next function's turn.
        iterator.close()
        return rate

    return {
        DECODE: decode,
        DECODE_AND_CROP: decode_and_crop,
        IN_PROCESS: in_process,
        IN_WORKERS: in_workers,
    }


def median_rates(functions: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median rates over turns, so that a busy machine slows all functions equally."""
    rates: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            rates[name].append(function())
    return {name: statistics.median(found) for name, found in rates.items()}


def run(rounds: int = 5, images: int = 512, workers: int = 2) -> None:
    """Prints the table.

    Args:
        rounds: number of turns of each function; the table has the medians.
        images: number of images in a turn.
        workers: number of worker processes in the last row.
    """
    check_rounds(rounds)
    if not absl.flags.FLAGS.is_parsed():  # grain reads flags, which only absl programs parse
        absl.flags.FLAGS.mark_as_parsed()
    with tempfile.TemporaryDirectory() as folder:
        builder = Jpegs(count=images, data_dir=folder)
        builder.download_and_prepare()
        data = open_folder(Path(builder.data_dir))
        rates = median_rates(measurements(data, workers), rounds)
        kilobytes = sum(len(data.train[n]["image"]) for n in range(images)) / images / 1e3
    print(f"{images} JPEGs of {_WIDTH}x{_HEIGHT}, {kilobytes:.0f} kB each\n")
    print_table(
        [
            "",
            "processes",
            "images/s",
            "images/s per process",
            "relative to decode",
            "relative to decode and crop",
        ],
        1,
        (_entries(name, rates, workers if name == IN_WORKERS else 1) for name in rates),
    )


def _entries(name: str, rates: Mapping[str, float], processes: int) -> list[str]:
    rate = rates[name] / processes
    return [
        name,
        str(processes),
        f"{rates[name]:.0f}",
        f"{rate:.0f}",
        f"{rate / rates[DECODE]:.2f}",
        f"{rate / rates[DECODE_AND_CROP]:.2f}",
    ]


if __name__ == "__main__":
    run_program(run)
