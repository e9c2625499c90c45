import jax
import jax.numpy as jnp
import pytest

from experiments.engine.config import ConfigError
from experiments.inpainting.configs import DataConfig, TrainingConfig
from experiments.inpainting.demo import demo_configs
from experiments.inpainting.task import count_parameters, initial_state
from experiments.models.unet import UNet, UNetConfig


@pytest.mark.parametrize("widths", [(8,), (), (8, 0)])
def test_widths_that_make_no_unet(widths):
    with pytest.raises(ConfigError, match=r"widths must be two or more integers of at least 1"):
        UNetConfig(widths=widths)


@pytest.mark.parametrize("size", [(16, 16), (17, 9), (1, 3)])
def test_output_has_the_size_of_the_input(size):
    model = UNet(UNetConfig("carafe", "carafe", (4, 6, 8)), features=3)
    y, _ = model.init_with_output(jax.random.key(0), jnp.ones((2, *size, 4)))
    assert y.shape == (2, *size, 3)


def test_demo_models_differ_in_their_resamplers_alone():
    baseline, carafe = demo_configs(TrainingConfig(), DataConfig(), UNetConfig().widths).values()
    shapes = [jax.eval_shape(lambda c=c: initial_state(c))["params"] for c in (baseline, carafe)]
    assert all(count_parameters(params) < 500_000 for params in shapes)
    for level in shapes[1]:
        shapes[1][level].pop("resample", None)
    assert jax.tree.map(jnp.shape, shapes[0]) == jax.tree.map(jnp.shape, shapes[1])
