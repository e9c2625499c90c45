import dataclasses

import pytest

from experiments.engine.presets import Preset
from experiments.engine.settings import TrainingConfig
from experiments.inpainting.configs import InpaintingConfig
from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.inpainting.report.gains import baseline_of, gains, paper_gains

PLAIN = InpaintingConfig(model=GeneratorConfig())
PARTIAL = InpaintingConfig(model=GeneratorConfig(convolution="partial", upsampler="nearest"))


def with_carafe(config):
    model = dataclasses.replace(config.model, downsampler="carafe", upsampler="carafe")
    return dataclasses.replace(config, model=model)


def presets(**configs):
    return {name: Preset(name, name, config) for name, config in configs.items()}


def test_a_baseline_differs_only_in_the_resamplers():
    found = presets(
        partial_carafe=with_carafe(PARTIAL),
        plain_carafe=with_carafe(PLAIN),
        plain=PLAIN,
        partial=PARTIAL,
    )
    baselines = {name: baseline_of(preset, found) for name, preset in found.items()}
    assert baselines == {
        "partial_carafe": "partial",
        "plain_carafe": "plain",
        "plain": None,
        "partial": None,
    }


def test_a_preset_with_other_differences_is_not_a_baseline():
    other = dataclasses.replace(PLAIN, training=TrainingConfig(batch_size=8))
    found = presets(carafe=with_carafe(PLAIN), other=other)
    assert baseline_of(found["carafe"], found) is None


def test_gains_are_computed_over_pairs_of_runs():
    runs = {
        1: {"psnr_hole": 21.0, "images/10-20": 7},
        3: {"psnr_hole": 24.0, "images/10-20": 7},
    }
    baseline = {
        3: {"psnr_hole": 22.0, "images/10-20": 7},
        1: {"psnr_hole": 20.0, "images/10-20": 7},
    }
    (found,) = gains(runs, baseline).items()
    assert found[0] == "psnr_hole"
    assert found[1].mean == pytest.approx(1.5)
    assert found[1].deviation == pytest.approx(0.5**0.5)


@pytest.mark.parametrize(("config", "psnr", "l1"), [(PLAIN, 1.35, -0.87), (PARTIAL, 0.27, -0.36)])
def test_gains_in_the_paper(config, psnr, l1):
    assert paper_gains(config)["psnr_image"].mean == pytest.approx(psnr)
    assert paper_gains(config)["l1_image"].mean == pytest.approx(l1)


def test_the_paper_has_no_gains_for_the_unet():
    model = GeneratorConfig(architecture="unet", convolution="partial", upsampler="nearest")
    assert paper_gains(InpaintingConfig(model=model)) == {}
