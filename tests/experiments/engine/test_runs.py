import dataclasses
from typing import Literal

import jax
import numpy as np
import pytest

from experiments.engine import config as configs
from experiments.engine.checkpoints import CHECKPOINTS, CheckpointError, Checkpoints
from experiments.engine.runs import RunType, names_of
from experiments.engine.settings import RunConfig
from experiments.engine.step import first_carry


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    task: Literal["toy"] = "toy"


def network(**changes):
    arrays = {"kernel": [1.0, -2, 3], "mean": [-1.0, 2], "var": [0.0, 4], "momentum": [1.0]}
    values = {name: np.array(value, np.float32) for name, value in (arrays | changes).items()}
    return {
        "params": {"conv1": {"kernel": values["kernel"]}},
        "model_state": {"bn1": {"mean": values["mean"], "var": values["var"]}},
        "optimizer": {"momentum": values["momentum"], "count": np.zeros((), np.int32)},
    }


RUNS = RunType(Config, lambda config: {"generator": network()}, best="accuracy")


def save(folder, state):
    checkpoints = Checkpoints(folder / CHECKPOINTS)
    checkpoints.save(7, jax.device_get(first_carry(state, 0)), None, {})
    checkpoints.close()
    configs.save(Config(), folder / "config.json")


def test_a_run_with_usable_values_is_loaded(tmp_path):
    state = {"generator": network(momentum=[np.nan])}
    save(tmp_path, state)
    loaded = RUNS.load(tmp_path)
    assert loaded.step == 7
    jax.tree.map(np.testing.assert_array_equal, loaded.state, state)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("kernel", [np.nan, 1, np.nan], r"params/conv1/kernel: 2 of 3 values NaN$"),
        ("kernel", [1, 2, -np.inf], r"params/conv1/kernel: 1 of 3 values infinite$"),
        ("mean", [np.inf, 1], r"model_state/bn1/mean: 1 of 2 values infinite$"),
        ("var", [1, -1e-3], r"model_state/bn1/var: 1 of 2 values negative$"),
    ],
)
def test_a_network_with_unusable_values_is_refused_and_its_array_named(
    name, values, message, tmp_path
):
    save(tmp_path, {"generator": network(**{name: values})})
    with pytest.raises(CheckpointError, match=rf"checkpoints/7 .* 1 of .*: generator/{message}"):
        RUNS.load(tmp_path)


def test_runs_have_the_names_of_their_folders_or_else_their_paths(tmp_path):
    assert names_of([tmp_path / "a", tmp_path / "b\n"]) == ["a", r"b\n"]
    assert names_of([tmp_path / "x/a", tmp_path / "y/a"]) == [f"{tmp_path}/x/a", f"{tmp_path}/y/a"]
    with pytest.raises(configs.ConfigError, match=r"runs.*different.*/a"):
        names_of([tmp_path / "a", tmp_path / "b/../a"])
