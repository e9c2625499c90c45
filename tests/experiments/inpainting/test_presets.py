import pytest

from experiments.inpainting.presets import CATALOGUE

PAPER = {
    "global-local": {"l1_image": -0.87, "psnr_image": 1.35},
    "partial-conv": {"l1_image": -0.36, "psnr_image": 0.27},
}
BOTH = ("global-local", "partial-conv")


def pairs_of(name):
    return {(each.preset, each.baseline) for each in CATALOGUE.experiments[name].comparisons}


@pytest.mark.parametrize(
    ("table", "prefix", "networks"),
    [
        ("demo", "cpu", BOTH[:1]),
        ("table10", "table10", BOTH),
        ("table10-cpu", "cpu", BOTH),
        ("table10-gpu", "gpu", BOTH),
        ("photographs-cpu", "photographs", BOTH),
    ],
)
def test_carafe_is_compared_with_every_baseline_of_its_table(table, prefix, networks):
    expected = set()
    presets = {preset.name for preset in CATALOGUE.experiments[table].presets}
    for network in networks:
        plain = f"{prefix}-{network}"
        expected |= {(f"{plain}-carafe", plain)}
        if f"{plain}-wide" in presets:
            expected |= {(f"{plain}-carafe", f"{plain}-wide")}
        if table == "photographs-cpu":
            expected |= {(f"{plain}-wide", plain)}
    assert pairs_of(table) == expected


def test_only_the_differences_of_table_10_have_differences_in_the_paper():
    for experiment in CATALOGUE.experiments.values():
        for each in experiment.comparisons:
            network = next(name for name in PAPER if name in each.preset)
            wide = "wide" in each.preset + each.baseline
            assert each.paper == ({} if wide else pytest.approx(PAPER[network]))
