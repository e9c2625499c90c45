import io

import pytest
from PIL import Image

from experiments.benchmarks import input_pipeline
from experiments.benchmarks.input_pipeline import (
    DECODE,
    DECODE_AND_CROP,
    IN_PROCESS,
    IN_WORKERS,
    Jpegs,
    measurements,
    median_rates,
)
from experiments.classification.batches import open_folder
from tests.experiments.benchmarks.markdown_tables import tables


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    builder = Jpegs(count=9, data_dir=tmp_path_factory.mktemp("jpegs"))
    builder.download_and_prepare()
    return open_folder(builder.data_dir)


def test_images_have_the_size_of_imagenet_images(data):
    for record in data.train:
        with Image.open(io.BytesIO(record["image"])) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (500, 375), "RGB")
        assert 25_000 < len(record["image"]) < 200_000


def test_every_measurement_returns_its_rate(data):
    functions = measurements(data, workers=1)
    functions.pop(IN_WORKERS)
    rates = median_rates(functions, rounds=1)
    assert len(rates) == 3
    assert all(10 < rate < 100_000 for rate in rates.values())


def test_the_rate_is_the_median_of_the_rounds():
    rates = iter([1.0, 100.0, 3.0])
    assert median_rates({"one": lambda: next(rates)}, rounds=3) == {"one": 3.0}


@pytest.mark.slow
def test_the_command_prints_a_table(capsys):
    input_pipeline.run(rounds=1, images=8, workers=1)
    printed = capsys.readouterr().out
    assert "8 JPEGs of 500x375" in printed
    ((_, *rows),) = tables(printed)
    assert [row[0] for row in rows] == [DECODE, DECODE_AND_CROP, IN_PROCESS, IN_WORKERS]
