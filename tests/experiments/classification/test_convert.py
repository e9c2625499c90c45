"""Tests conversions of runs and weights without ImageNet."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from experiments.classification.configs import ClassificationConfig
from experiments.classification.convert import convert, export
from experiments.classification.data_config import DataConfig
from experiments.classification.task import RUNS
from experiments.engine.checkpoints import CheckpointError
from experiments.engine.config import ConfigError
from experiments.engine.converted_runs import REST
from experiments.engine.json_files import read_json
from experiments.models.resnet_config import ResNetConfig
from tests.experiments.weights.torch_states import WIDTH, random_state

CONFIG = ClassificationConfig(
    model=ResNetConfig(depth=18, width=WIDTH), data=DataConfig(image_side=32, eval_resize=32)
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A converted run, and the arrays of its file."""
    folder = tmp_path_factory.mktemp("converted")
    state = random_state()
    rng = np.random.default_rng(1)
    state["fc.weight"] = rng.standard_normal((1000, 8 * WIDTH), np.float32)
    state["fc.bias"] = rng.standard_normal(1000, np.float32)
    state["conv1.weight"] = state["conv1.weight"].astype(np.float16)
    save_file(state, folder / "resnet.safetensors")
    texts = convert(CONFIG, folder / "resnet.safetensors", folder / "run", library="timm")
    counters = sum(name.endswith("num_batches_tracked") for name in state)
    assert texts == [f"{counters} arrays: a counter of PyTorch's training"]
    return folder / "run", state


def test_a_file_comes_back_bit_for_bit(run, tmp_path):
    folder, state = run
    export(folder, tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert {*back} == {*state}
    for name, array in back.items():
        expected = state[name]
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        assert array.tobytes() == expected.tobytes(), name


def test_a_converted_run_names_its_origin(run):
    folder, _ = run
    assert read_json(folder / "converted.json") == {
        "weights": ["resnet.safetensors"],
        "format": "timm",
        "kept": [],
    }
    assert RUNS.load(folder).step == 0


def test_an_existing_file_is_not_overwritten(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"output.*new file.*file"):
        export(run[0], tmp_path / "file")


def test_a_damaged_file_of_the_rest_is_reported(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    (tmp_path / "run" / REST).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=REST):
        export(tmp_path / "run", tmp_path / "back.pth")
    assert not (tmp_path / "back.pth").exists()
