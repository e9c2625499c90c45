import dataclasses

import jax
import numpy as np
import pytest

from experiments.classification.configs import ClassificationConfig
from experiments.classification.presets import (
    CUTOUTS_CPU,
    EXPERIMENTS,
    METRICS,
    PRESETS,
    SMALL,
    TABLE_2,
    TABLE_3,
    TABLE_12,
)
from experiments.classification.task import (
    initial_state,
    make_model,
    make_optimizer,
    train_step,
)
from experiments.data.classes import num_classes
from experiments.engine import config as configs
from experiments.engine.config import ConfigError
from experiments.engine.parallel import data_parallel, split
from experiments.engine.runs import preset_of
from experiments.engine.step import first_carry, guarded
from experiments.models.resnet_config import ResNetConfig


def test_names_are_unique_and_every_row_has_a_preset():
    assert len({preset.name for preset in PRESETS}) == len(PRESETS)
    assert [len(table) for table in (TABLE_2, TABLE_3, TABLE_12)] == [4, 6, 5]
    assert {preset.config.model.downsampler for preset in TABLE_3} == {
        preset.config.model.downsampler for preset in SMALL
    }


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_a_preset_can_be_saved_and_names_its_command(preset, tmp_path):
    configs.save(preset.config, tmp_path / "config.json")
    assert configs.load(ClassificationConfig, tmp_path / "config.json") == preset.config
    text = preset.describe("classification", METRICS)
    assert f"experiments.classification train {preset.name}." in text
    assert "Paper: " in text
    assert "not run yet" in text


def test_equal_rows_of_several_tables_are_one_run():
    names = [preset_of(preset.config, PRESETS).name for preset in (*TABLE_3, *TABLE_12)]
    assert names[0] == "table2-resnet50"
    assert names[5] == names[8] == "table2-resnet50-carafe"
    assert TABLE_12[2].paper == TABLE_2[1].paper
    assert len({*names}) == len(names) - 1


def test_every_small_downsampler_is_compared_with_strides_and_carafe_also_with_wider_ones():
    pairs = [(each.preset, each.baseline) for each in EXPERIMENTS["cutouts-cpu"].comparisons]
    strided = "cutouts-cpu-strided"
    names = [preset.name for preset in CUTOUTS_CPU if preset.name != strided]
    assert pairs == [(name, strided) for name in names] + [
        ("cutouts-cpu-carafe", "cutouts-cpu-strided-wide"),
        ("cutouts-cpu-carafe", "cutouts-cpu-avg-pool"),
    ]


def test_larger_images_are_all_that_the_rows_of_96_pixels_change():
    for preset in EXPERIMENTS["cutouts-96"].presets:
        small = next(each for each in CUTOUTS_CPU if f"{each.name}-96" == preset.name)
        data = dataclasses.replace(small.config.data, image_side=96, eval_resize=96)
        assert preset.config == dataclasses.replace(small.config, data=data)
    pairs = [(each.preset, each.baseline) for each in EXPERIMENTS["cutouts-96"].comparisons]
    assert pairs == [
        ("cutouts-cpu-max-pool-96", "cutouts-cpu-strided-96"),
        ("cutouts-cpu-carafe-96", "cutouts-cpu-strided-96"),
        ("cutouts-cpu-strided-wide-96", "cutouts-cpu-strided-96"),
        ("cutouts-cpu-carafe-96", "cutouts-cpu-strided-wide-96"),
    ]


def test_widths_of_the_compressor_are_compared_with_the_default():
    pairs = [(each.preset, each.baseline) for each in EXPERIMENTS["cutouts-table12"].comparisons]
    assert pairs == [(f"cutouts-cpu-c{width}", "cutouts-cpu-c16") for width in (4, 8, 32, 64)]


def test_three_rows_are_trained_with_five_rates():
    found = EXPERIMENTS["cutouts-rates"].presets
    rates = (0.0125, 0.025, 0.05, 0.1, 0.2)
    assert [preset.name for preset in found] == [
        f"cutouts-cpu-{row}-rate-{rate}"
        for row in ("strided", "max-pool", "carafe")
        for rate in rates
    ]
    rate = CUTOUTS_CPU[0].config.training.optimizer.learning_rate
    assert {rate / 2, 2 * rate} <= {*rates}
    seeds = {seed for each in EXPERIMENTS.values() if each.presets != found for seed in each.seeds}
    assert not seeds & {*EXPERIMENTS["cutouts-rates"].seeds}


def test_the_learning_rate_of_imagenet_equals_that_of_goyal_et_al():
    _, rate = make_optimizer(TABLE_2[0].config, steps_per_epoch=1251)
    epochs = {0: 0.1, 5: 0.4, 29.9: 0.4, 30: 0.04, 60: 0.004, 80: 0.0004}
    for epoch, expected in epochs.items():
        assert float(rate(round(epoch * 1251))) == pytest.approx(expected, rel=1e-3)


def reduced(config):
    """Returns the preset with fewer and narrower layers, images of 32 pixels, and one rate."""
    model = config.model
    depth = 18 if model.depth < 50 else 50
    data = dataclasses.replace(config.data, image_side=32, eval_resize=32)
    training = dataclasses.replace(config.training, batch_size=8)
    # One width of Table 12 is trained; another test covers the others.
    model = dataclasses.replace(model, width=8, depth=depth, compressed_channels=16)
    config = dataclasses.replace(config, model=model, data=data, training=training)
    return config.with_learning_rate(0.1)


# Presets that are equal after the reduction are trained once.
REDUCED = {reduced(preset.config): preset.name for preset in PRESETS}


@pytest.mark.slow
@pytest.mark.parametrize("config", REDUCED, ids=REDUCED.values())
def test_one_training_step_of_every_preset(config):
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (8, 32, 32, 3), np.uint8),
        "label": rng.integers(0, num_classes(config.data.source), 8).astype(np.int32),
    }
    # No warm-up: the first learning rate of some presets is zero.
    schedule = dataclasses.replace(config.training.schedule, warmup=0)
    config = dataclasses.replace(
        config, training=dataclasses.replace(config.training, schedule=schedule)
    )
    before = jax.device_get(initial_state(config))
    step = data_parallel(guarded(train_step(config, steps_per_epoch=10), 0))
    carry, metrics = step(first_carry(before, 0), split(batch))
    assert float(metrics["loss"]) == pytest.approx(np.log(num_classes(config.data.source)), rel=0.1)
    assert int(metrics["skipped"]) == 0
    after = carry.state["params"]["fc"]["kernel"]
    assert (np.asarray(after) != before["params"]["fc"]["kernel"]).any()


@pytest.mark.slow
def test_the_presets_of_table_12_build_with_their_compressed_channels():
    found = []
    for preset in TABLE_12:
        params = jax.eval_shape(lambda c=preset.config: initial_state(c)["params"])
        compressor = params["pool"]["kernel_predictor"]["channel_compressor"]["kernel"]
        found.append(compressor.shape[-1])
    assert found == [4, 8, 16, 32, 64]


def test_synchronised_norm_uses_the_mapped_axis():
    config = ClassificationConfig(model=ResNetConfig(norm="sync_batch"))
    assert make_model(config).axis_name is not None
    assert make_model(ClassificationConfig()).axis_name is None


def test_an_image_smaller_than_the_stride_is_refused():
    data = dataclasses.replace(SMALL[0].config.data, image_side=16)
    with pytest.raises(ConfigError, match=r"image_side.* 32.* 16"):
        ClassificationConfig(data=data)
