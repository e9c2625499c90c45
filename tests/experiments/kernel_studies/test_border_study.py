import numpy as np
import pytest

from experiments.kernel_studies.border_study import border_json, border_table, layer_means
from experiments.kernel_studies.border_sums import RingSums


def sums(*inside):
    return RingSums(np.array(inside), np.array([1.0, 0, 6]), np.array([2.0, 0, 6]))


RUNS = [
    {"large": sums(1.0, 0, 6), "small": RingSums(*np.array([[3.0, 2], [1, 2], [4, 2]]))},
    {"large": sums(1.5, 0, 6), "small": RingSums(*np.array([[3.0, 2], [1, 2], [4, 2]]))},
]


def test_rings_without_pixels_and_beyond_the_radius_have_no_mean():
    layers = layer_means(RUNS)
    assert border_table("title", layers).rows == (
        ("large", "CARAFE++", "0.625 ± 0.177", "-", "1.000 ± 0.000", "0.906 ± 0.044"),
        ("large", "box", "0.500", "-", "1.000", "0.875"),
        ("small", "CARAFE++", "0.750 ± 0.000", "1.000 ± 0.000", "", "0.833 ± 0.000"),
        ("small", "box", "0.250", "1.000", "", "0.500"),
    )
    entry = border_json(layers["large"])
    assert entry["carafe"][0] == pytest.approx({"mean": 0.625, "deviation": 0.125 * 2**0.5})
    assert entry["carafe"][1] is None
    assert entry["box"] == [
        {"mean": 0.5, "deviation": None},
        None,
        {"mean": 1.0, "deviation": None},
    ]
    assert entry["box_all"] == {"mean": 0.875, "deviation": None}


def test_a_single_run_has_no_deviation():
    ((_, _, first, *_), *_) = border_table("title", layer_means(RUNS[:1])).rows
    assert first == "0.500"
