import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "docs" / "figures" / "any_scale.py"


@pytest.fixture(scope="module")
def figure():
    """The script as a module: docs/ is no package."""
    spec = importlib.util.spec_from_file_location("any_scale", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.BATCH, module.CROP, module.SIDES, module.DRAWN = 1, 32, (16, 20), (2.0,)
    return module


@pytest.mark.slow
def test_every_method_restores_the_photograph_and_bilinear_is_that_of_the_table(
    figure, tmp_path, capsys
):
    path = tmp_path / "scales.png"
    figure.main(path, steps=1, scales=(1.25, 2.0))
    with Image.open(path) as image:
        assert image.format == "PNG"
    printed = dict(line.rsplit(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert printed["bilinear"] == "30.65, 27.48"
    assert printed["bicubic"] == "31.91, 28.23"
    assert [*printed][2:] == [
        "CARAFE++, scale 2",
        "CARAFE++, scale 2, then bilinear",
        "CARAFE++, all scales",
        "CARAFE++, all scales, with offsets",
    ]


def test_a_network_has_an_offset_predictor_only_if_it_is_asked_for(figure):
    x = np.ones((1, 8, 8, 3), np.float32)
    for features in (None, 4):
        model = figure.Upsampler(features)
        shapes = jax.eval_shape(
            lambda key, model=model: model.init(key, x, (9, 13)), jax.random.key(0)
        )
        assert ("offset_predictor" in shapes["params"]["CARAFE_0"]) == (features is not None)
