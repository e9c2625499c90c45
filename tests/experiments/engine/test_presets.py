import dataclasses

import pytest

from experiments.engine.config import ConfigError
from experiments.engine.presets import (
    Comparison,
    Experiment,
    Metric,
    at_learning_rates,
    compared_with,
)
from tests.experiments.engine.toy_spec import NARROW, SAME, WIDE


@pytest.mark.parametrize("pair", [("wide", "narow"), ("other", "narrow"), ("wide", "wide")])
def test_a_comparison_names_two_presets_of_the_table(pair):
    with pytest.raises(ConfigError, match=rf"comparisons.*'narrow', 'wide'.*{pair[0]}.*{pair[1]}"):
        Experiment("Table", (NARROW, WIDE), comparisons=(Comparison(*pair),))


@pytest.mark.parametrize(
    ("changes", "repeated"), [({"name": "narrow"}, "'narrow'"), ({"row": "Narrow"}, "'Narrow'")]
)
def test_rows_of_a_table_have_different_names(changes, repeated):
    same = dataclasses.replace(WIDE, **changes)
    with pytest.raises(ConfigError, match=rf"presets.*{repeated}, {repeated}"):
        Experiment("Table", (NARROW, same))


def test_every_other_preset_is_compared_with_a_baseline():
    found = compared_with(WIDE, (NARROW, WIDE, SAME))
    assert found == (Comparison("narrow", "wide"), Comparison("same", "wide"))
    assert Experiment("Table", (NARROW, WIDE, SAME), comparisons=found[:1]).compared == {
        *("narrow", "wide")
    }


def test_headlines_have_differences_and_other_metrics_if_they_say_so():
    assert Metric("a", "a").has_differences
    assert not Metric("a", "a", place="column").has_differences
    assert Metric("a", "a", place="column", compared=True).has_differences


def test_each_preset_is_repeated_with_each_learning_rate():
    found = at_learning_rates((NARROW, WIDE), (0.5, 0.25))
    assert [(each.name, each.row) for each in found] == [
        ("narrow-rate-0.5", "Narrow, learning rate 0.5"),
        ("narrow-rate-0.25", "Narrow, learning rate 0.25"),
        ("wide-rate-0.5", "Wide, learning rate 0.5"),
        ("wide-rate-0.25", "Wide, learning rate 0.25"),
    ]
    for each, base in zip(found, (NARROW, NARROW, WIDE, WIDE), strict=True):
        assert each.config.training.optimizer.learning_rate == float(each.name.split("-")[-1])
        rate = base.config.training.optimizer.learning_rate
        assert each.config.with_learning_rate(rate) == base.config
