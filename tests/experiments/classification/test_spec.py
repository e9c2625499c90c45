import dataclasses

import jax
import pytest

from experiments.classification.presets import CATALOGUE, SMALL
from experiments.classification.spec import cost_of, resized, step_seconds

CONFIG = dataclasses.replace(
    SMALL[0].config, model=dataclasses.replace(SMALL[0].config.model, width=8)
)


def test_the_cost_of_a_network_is_the_sum_over_its_layers():
    # The standard network has 11,689,512 parameters. At an eighth of the width convolutions have a
    # 64th of them, the stem and the norms an eighth; and there are ten classes.
    stem, norms, classifier = 3 * 49 * 64, 2 * 4800, 513_000
    squared = (11_689_512 - classifier - stem - norms) // 64
    found = cost_of(CONFIG)
    assert found.parameters == squared + (stem + norms) // 8 + 64 * 10 + 10
    # Twice the side gives four times the operations, except for the classifier.
    larger = cost_of(resized(CONFIG, 64))
    assert larger.parameters == found.parameters
    assert larger.flops == pytest.approx(4 * found.flops, rel=0.01)


@pytest.mark.slow
def test_a_training_step_and_an_inference_are_timed():
    training, inference = step_seconds(CONFIG, 2 * jax.device_count())
    assert training > 0
    assert inference > 0


def test_rows_of_a_table_have_the_same_data():
    for experiment in CATALOGUE.experiments.values():
        assert len({preset.config.data for preset in experiment.presets}) == 1
