"""The input pipeline against bare Pillow: `python -m experiments.benchmarks.input_pipeline`.

JPEGs of 500x375, ImageNet's usual size, are made of photographs and written as a tfds data set into
a temporary folder. Prints a table in Markdown: images a second, in turns, of the pipeline that
trains and of Pillow alone on the same bytes. It errs against the pipeline: an image costs grain's
shuffle 0.1 ms among a few hundred records, and 5 us among ImageNet's.
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
_QUALITY = 97  # about ImageNet's 110 kB an image
_BATCH_SIZE = 32
_BUFFERED_BATCHES = 4  # of a worker, at most; they are not counted

DECODE = "Pillow, decode"
DECODE_AND_CROP = "Pillow, decode and crop"
IN_PROCESS = "pipeline, this process"
IN_WORKERS = "pipeline, worker processes"


class Jpegs(tfds.core.GeneratorBasedBuilder):
    """Random views of photographs, with ImageNet's features.

    Args:
        count: of the images to train on.
        options: for tfds.
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


def contestants(data: ClassificationData, workers: int) -> dict[str, Callable[[], float]]:
    """Functions that handle as many images as there are to train on, and give images a second."""
    config = DataConfig()
    encoded = [data.train[number]["image"] for number in range(len(data.train))]
    rng = np.random.default_rng(0)
    batch_size = min(_BATCH_SIZE, len(encoded))
    batches = training_batches(data, config, batch_size, seed=0)
    batches_a_turn = len(encoded) // batch_size

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
        for number in range(batches_a_turn):
            batches[number]
        return batches_a_turn * batch_size / (time.perf_counter() - began)

    def in_workers() -> float:
        options = grain.MultiprocessingOptions(num_workers=workers)
        reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        iterator = iter(batches.to_iter_dataset(reading).mp_prefetch(options))
        for _ in range(workers * _BUFFERED_BATCHES):
            next(iterator)
        began = time.perf_counter()
        for _ in range(batches_a_turn):
            next(iterator)
        rate = batches_a_turn * batch_size / (time.perf_counter() - began)
        # Closed, or it would fill its buffers during the next one's turn.
        iterator.close()
        return rate

    return {
        DECODE: decode,
        DECODE_AND_CROP: decode_and_crop,
        IN_PROCESS: in_process,
        IN_WORKERS: in_workers,
    }


def median_rates(functions: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Medians over turns, so that a busy machine slows all alike."""
    rates: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            rates[name].append(function())
    return {name: statistics.median(found) for name, found in rates.items()}


def run(rounds: int = 5, images: int = 512, workers: int = 2) -> None:
    """Prints the table.

    Args:
        rounds: turns that each gets; the median counts.
        images: of a turn.
        workers: processes of the last row.
    """
    check_rounds(rounds)
    if not absl.flags.FLAGS.is_parsed():  # grain reads flags, and this is no absl program
        absl.flags.FLAGS.mark_as_parsed()
    with tempfile.TemporaryDirectory() as folder:
        builder = Jpegs(count=images, data_dir=folder)
        builder.download_and_prepare()
        data = open_folder(Path(builder.data_dir))
        rates = median_rates(contestants(data, workers), rounds)
        kilobytes = sum(len(data.train[n]["image"]) for n in range(images)) / images / 1e3
    print(f"{images} JPEGs of {_WIDTH}x{_HEIGHT}, {kilobytes:.0f} kB each\n")
    print_table(
        ["", "processes", "images/s", "images/s a process", "of decode", "of decode and crop"],
        1,
        (_cells(name, rates, workers if name == IN_WORKERS else 1) for name in rates),
    )


def _cells(name: str, rates: Mapping[str, float], processes: int) -> list[str]:
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
