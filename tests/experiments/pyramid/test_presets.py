import dataclasses

import pytest

from experiments.engine import config as configs
from experiments.engine.runs import preset_of
from experiments.pyramid.configs import PyramidConfig
from experiments.pyramid.presets import EXPERIMENTS, METRICS, PRESETS
from experiments.pyramid.spec import cost_of, resized

BY_NAME = {preset.name: preset for preset in PRESETS}
BASE = BY_NAME["carafe"].config
# Seeds of the tables that have other seeds than 0, 1 and 2.
SEEDS = {
    "table4": (0, 1, 2, 3, 4),
    "capacity": (0, 1, 2, 3, 4),
    "after-paper": (0, 1, 2, 3, 4),
    "rates": (100,),
    "carafe-rates": (100,),
}
ROWS_OF_RATES = {
    "rates": {
        row.name
        for name in ("table4", "capacity", "after-paper")
        for row in EXPERIMENTS[name].presets
    },
    "carafe-rates": {"c64", "uncompressed", "k13", "k15", "k55", "k57", "sigmoid"},
}


def rows(table):
    return [preset.config.model for preset in EXPERIMENTS[table].presets]


def test_names_and_seeds():
    assert len(BY_NAME) == len(PRESETS)
    for name, experiment in EXPERIMENTS.items():
        assert experiment.seeds == SEEDS.get(name, (0, 1, 2))
        distinct = {preset.config for preset in experiment.presets}
        assert len(distinct) == len(experiment.presets)
    assert [metric.name for metric in METRICS][:2] == ["mIoU", "mIoU_border"]


def test_the_rows_differ_in_the_ablated_field_and_the_learning_rate_of_the_upsampler():
    rates = {}
    for preset in PRESETS:
        if "-rate-" in preset.name:
            continue
        rate = preset.config.training.optimizer.learning_rate
        ablated = preset.name if preset.name in ROWS_OF_RATES["carafe-rates"] else None
        network = (preset.config.model.upsampler, preset.config.model.channels, ablated)
        assert rates.setdefault(network, rate) == rate
        base = dataclasses.replace(BASE, model=preset.config.model).with_learning_rate(rate)
        assert preset.config == base
        assert preset.config.model.channels == (89 if preset.name == "nearest-wide" else 64)
    sizes = BASE.model.carafe
    assert [model.carafe for model in rows("table4")] == [sizes] * 10
    assert [model.carafe for model in rows("table11")] == [
        dataclasses.replace(sizes, compressed_channels=count) for count in (4, 8, 16, 32, 64, None)
    ]
    assert [model.carafe for model in rows("table13")] == [
        dataclasses.replace(sizes, encoder_size=encoder, kernel_size=reassembly)
        for encoder, reassembly in ((1, 3), (1, 5), (3, 3), (3, 5), (3, 7), (5, 5), (5, 7))
    ]
    assert [model.carafe for model in rows("table14")] == [
        dataclasses.replace(sizes, normalizer=name)
        for name in ("softmax", "sigmoid", "sigmoid_normalized")
    ]
    assert dataclasses.astuple(sizes) == (16, 3, 5, "softmax")


@pytest.mark.parametrize(("experiment", "names"), ROWS_OF_RATES.items(), ids=ROWS_OF_RATES)
def test_the_rate_of_a_row_has_been_compared_with_its_half_and_its_double(experiment, names):
    found = {preset.name: preset.config for preset in EXPERIMENTS[experiment].presets}
    assert {name.split("-rate-")[0] for name in found} == names
    for name in names:
        rate = BY_NAME[name].config.training.optimizer.learning_rate
        for each in (rate / 2, rate, 2 * rate):
            assert found[f"{name}-rate-{each}"] == BY_NAME[name].config.with_learning_rate(each)


def test_equal_configs_share_a_run():
    for name in ("c16", "k35", "softmax"):
        assert preset_of(BY_NAME[name].config, PRESETS).name == "carafe"


def test_the_widened_baseline_is_the_smallest_that_costs_as_much_as_carafe():
    carafe, wide = (cost_of(BY_NAME[name].config) for name in ("carafe", "nearest-wide"))
    assert wide.parameters >= carafe.parameters
    assert wide.flops >= carafe.flops
    config = BY_NAME["nearest-wide"].config
    narrower = dataclasses.replace(config.model, channels=config.model.channels - 1)
    less = cost_of(dataclasses.replace(config, model=narrower))
    assert less.parameters < carafe.parameters or less.flops < carafe.flops


@pytest.mark.parametrize("side", [8, 60, 90, 120, 241])
def test_a_resized_config_has_the_shorter_side(side):
    config = resized(BASE, side)
    assert config.scenes.shorter_side == side
    assert dataclasses.replace(config, scenes=BASE.scenes) == BASE
    assert resized(BASE, 120) == BASE


def test_a_config_survives_saving(tmp_path):
    for preset in PRESETS:
        configs.save(preset.config, tmp_path / "config.json")
        assert configs.load(PyramidConfig, tmp_path / "config.json") == preset.config
