import dataclasses

import jax
import pytest

from experiments.engine import config as configs
from experiments.segmentation.presets import EXPERIMENTS
from experiments.segmentation.spec import cost_of, resized, step_seconds
from tests.experiments.segmentation.tiny import TINY


@pytest.mark.slow
def test_costs_grow_with_the_size_of_the_image():
    small, large = (cost_of(resized(TINY, side)) for side in (64, 128))
    assert small.parameters == large.parameters
    assert 3.5 * small.flops < large.flops < 4.5 * small.flops
    without = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, auxiliary=False))
    assert cost_of(without).parameters < cost_of(TINY).parameters


def test_tables_give_the_cost_of_an_image_of_512_by_512_pixels():
    for table in ("table8", "table9", "mmseg"):
        assert {row.config.data.cost_side for row in EXPERIMENTS[table].presets} == {512}
    config = EXPERIMENTS["table8"].presets[0].config
    assert configs.differences(config, resized(config, 256)) == ["data.cost_side: 512 -> 256"]


@pytest.mark.slow
def test_a_training_step_and_an_inference_are_timed():
    config = resized(TINY, 64)
    training, inference = step_seconds(config, jax.device_count())
    assert training > 0
    assert inference > 0
