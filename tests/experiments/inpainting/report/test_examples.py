import hypothesis
import pytest
from hypothesis import strategies

from experiments.data.records import RecordError
from experiments.inpainting.configs import DataConfig
from experiments.inpainting.data.batches import InpaintingData, buckets
from experiments.inpainting.report import examples
from experiments.inpainting.report.examples import spread_examples

CONFIG = DataConfig()
SIZES = len(buckets(CONFIG.holes))


def chosen(monkeypatch, images, count, unreadable=()):
    def example(data, config, number):
        if number in unreadable:
            raise RecordError("broken")
        return number

    monkeypatch.setattr(examples, "validation_example", example)
    records = range(images)
    return spread_examples(InpaintingData(records, records), CONFIG, count)


@hypothesis.given(strategies.integers(1, 300), strategies.integers(1, 12))
def test_examples_are_spread_and_cycle_through_hole_sizes(images, count):
    with pytest.MonkeyPatch.context() as monkeypatch:
        numbers = chosen(monkeypatch, images, count)
    assert len(set(numbers)) == min(images, count)
    assert [number % SIZES for number in numbers] == [n % SIZES for n in range(len(numbers))]
    if count > 1 and images > 20:
        assert numbers[0] < SIZES
        assert numbers[-1] >= images - SIZES


def test_an_unreadable_image_is_replaced_by_the_next_with_the_same_hole_size(monkeypatch):
    assert chosen(monkeypatch, 21, 5)[:2] == [0, 6]
    assert chosen(monkeypatch, 21, 5, unreadable={6, 11})[:2] == [0, 16]
    assert chosen(monkeypatch, 3, 3, unreadable={1}) == [0, 2]
