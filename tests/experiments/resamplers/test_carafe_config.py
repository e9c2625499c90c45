import dataclasses

import pytest

from carafe_jax.linen import CARAFE
from experiments.engine.config import ConfigError
from experiments.resamplers.carafe_config import CarafeConfig


def test_the_defaults_are_those_of_the_layer():
    layer = CARAFE(up=2)
    for name, value in dataclasses.asdict(CarafeConfig()).items():
        assert value == (64 if name == "compressed_channels" else getattr(layer, name))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compressed_channels": 0}, "compressed_channels.* 0$"),
        ({"encoder_size": 2}, "encoder_size.* 2$"),
        ({"kernel_size": -1}, "kernel_size.* -1$"),
        ({"normalizer": "relu"}, "normalizer.*softmax.*'relu'"),
    ],
)
def test_fields_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        CarafeConfig(**options)
