import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.data.errors import DataError
from experiments.engine.evaluation import UnreadableEvaluationError
from experiments.engine.folders import DataFolders
from experiments.engine.runs import LoadedRun
from experiments.engine.settings import EvaluationConfig, TrainingConfig
from experiments.engine.tables.statistics import means_of
from experiments.inpainting import example_sums as module
from experiments.inpainting.configs import DataConfig, HoleConfig, InpaintingConfig
from experiments.inpainting.data.batches import InpaintingData, buckets, validation_example
from experiments.inpainting.evaluation import make_evaluator
from experiments.inpainting.example_sums import example_sums
from experiments.inpainting.fill import fill, make_generator
from experiments.inpainting.metrics import METRICS, image_metrics
from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.inpainting.pixels import to_unit
from tests.experiments.variables import scaled_variables

pytestmark = pytest.mark.usefixtures("few_optimizations")

SIDE = 24
CONFIG = InpaintingConfig(
    model=GeneratorConfig(width=2, levels=1, norm="none"),
    data=DataConfig(crop_side=SIDE, holes=HoleConfig(lowest=20, highest=50)),
    training=TrainingConfig(batch_size=6),  # not for evaluation: not a multiple of four devices
)


def evaluation(max_unreadable_records):
    return EvaluationConfig(batch_size=4, max_unreadable_records=max_unreadable_records)


@pytest.fixture(scope="module")
def variables():
    image, mask = (np.zeros((1, SIDE, SIDE, channels), np.float32) for channels in (3, 1))
    return scaled_variables(make_generator(CONFIG), image, mask)


@pytest.fixture
def data(tmp_path):
    """Seven images: the last batch is padded, and the buckets have 3, 2 and 2 images."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(7):
        path = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(path)
        records.append({"image": path.read_bytes()})
    return InpaintingData(train=records, validation=records)


def metrics_one_by_one(data, variables, numbers):
    """Metrics of single images, without batches, devices and padding."""
    model, found = make_generator(CONFIG), []

    @jax.jit
    def measure(variables, image, mask):
        return image_metrics(fill(model, variables, image, mask), image, mask)

    for number in numbers:
        example = validation_example(data, CONFIG.data, number)
        image, mask = to_unit(example["image"][None]), example["mask"][None].astype(np.float32)
        metrics = measure(variables, image, mask)
        low, high = buckets(CONFIG.data.holes)[int(mask.mean() * 10) - 2]
        assert low <= 100 * mask.mean() < high
        found.append((f"{low}-{high}", {name: float(value[0]) for name, value in metrics.items()}))
    return found


def expected_means(found):
    expected = {name: np.mean([metrics[name] for _, metrics in found]) for name in METRICS}
    for bucket in dict.fromkeys(name for name, _ in found):
        members = [metrics for name, metrics in found if name == bucket]
        expected[f"images/{bucket}"] = len(members)
        for name in METRICS:
            expected[f"{name}/{bucket}"] = np.mean([metrics[name] for metrics in members])
    return expected


def test_every_image_counts_once_overall_and_once_in_its_bucket(data, variables):
    found = metrics_one_by_one(data, variables, range(7))
    assert sorted({bucket for bucket, _ in found}) == ["20-30", "30-40", "40-50"]
    means = make_evaluator(CONFIG, data, evaluation(0))(variables)
    assert means == pytest.approx(expected_means(found), rel=1e-4)


def test_unreadable_images_and_buckets_without_images_are_left_out(data, variables):
    for number in (1, 4):  # all of the second bucket
        data.validation[number] = {"image": b"no image"}
    found = metrics_one_by_one(data, variables, (0, 2, 3, 5, 6))
    means = make_evaluator(CONFIG, data, evaluation(2))(variables)
    assert not [name for name in means if "30-40" in name]
    assert means == pytest.approx({**expected_means(found), "unreadable": 2}, rel=1e-4)
    with pytest.raises(UnreadableEvaluationError, match=r"^2 .* 1: "):
        make_evaluator(CONFIG, data, evaluation(1))(variables)


@pytest.fixture
def run(data, variables, monkeypatch):
    """A run whose fifth image cannot be read; its photographs have three, three and one image."""
    for record, name in zip(data.validation, "aabbbac", strict=True):
        record["photograph"] = name.encode()
    data.validation[4]["image"] = b"no image"
    monkeypatch.setattr(module, "open_data", lambda *_: data)
    state = {"average": variables}
    return LoadedRun(CONFIG.with_training(batch_size=4), state, 7)


def test_sums_give_the_metrics_of_each_image_and_name_its_photograph(run, data, variables):
    found = example_sums(run, DataFolders())
    assert found.groups == [*"aabbac"]
    assert found.records == [0, 1, 2, 3, 5, 6]
    assert found.kind == "photographs"
    expected = metrics_one_by_one(data, variables, (0, 1, 2, 3, 5, 6))
    for name in METRICS:
        values = [metrics[name] for _, metrics in expected]
        assert found.sums[name] == pytest.approx(values, rel=1e-4)
        assert means_of(found.totals)[name] == pytest.approx(np.mean(values), rel=1e-4)


def test_images_without_the_name_of_their_photograph_are_an_error(run, data):
    del data.validation[3]["photograph"]
    with pytest.raises(DataError, match=r"record 3.*'photograph'.*image"):
        example_sums(run, DataFolders())


def test_images_of_other_datasets_are_independent(run):
    places = dataclasses.replace(run.config.data, source="places365_small")
    run = run._replace(config=dataclasses.replace(run.config, data=places))
    found = example_sums(run, DataFolders())
    assert (found.groups, found.kind) == ([*"012356"], "images")
