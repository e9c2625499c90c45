"""What summaries of a model show of a layer."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import carafe_jax

X = jnp.ones((1, 8, 8, 32))
OPTIONS = {"up": 2, "compressed_channels": 16}


@pytest.fixture
def linen():
    return carafe_jax.linen.CARAFE(**OPTIONS)


@pytest.fixture
def layer():
    return carafe_jax.nnx.CARAFE(32, **OPTIONS, rngs=nnx.Rngs(0))


def rows(table):
    """The cells of each row of a table, without its colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", table)
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in plain.splitlines()]


@pytest.mark.parametrize("api", ["linen", "nnx"])
def test_tables_show_paths_shapes_and_parameters(api, linen, layer):
    if api == "linen":
        table = nn.tabulate(linen, jax.random.key(0), console_kwargs={"width": 200})(X)
    else:
        table = nnx.tabulate(layer, X, console_kwargs={"width": 200})
    found = {row[0]: row for row in rows(table) if len(row) > 3 and row[1]}
    assert found[""][1:4] == ["CARAFE", "float32[1,8,8,32]", "float32[1,16,16,32]"]
    predictor = found["kernel_predictor"]
    assert predictor[1:4] == ["KernelPredictor", "float32[1,8,8,32]", "float32[1,8,8,100]"]
    compressor = found["kernel_predictor/channel_compressor"]
    assert compressor[1:4] == ["Conv", "float32[1,8,8,32]", "float32[1,8,8,16]"]
    encoder = found["kernel_predictor/content_encoder"]
    assert encoder[1:4] == ["Conv", "float32[1,8,8,16]", "float32[1,8,8,100]"]
    parameters = (32 * 16 + 16) + (9 * 16 * 100 + 100)
    assert f"{parameters:,}" in table


def test_representations_show_the_options(linen, layer):
    for text in (repr(linen), repr(layer)):
        assert text.startswith("CARAFE(")
        for name, value in {"up": 2, "down": 1, "kernel_size": 5, "groups": 1}.items():
            assert re.search(rf"\b{name} ?= ?{value}\b", text)
        assert re.search(r"normalizer ?= ?'softmax'", text)
