"""Tests how files of weights become variables, and variables become files."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from experiments.weights.arrangements import CONVOLUTION, VECTOR
from experiments.weights.layout import Layout, Source, counter
from experiments.weights.loading import (
    WeightsError,
    arrays_for_file,
    file_shapes,
    load,
    unused_texts,
)
from tests.experiments.weights.torch_states import assert_equal


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some rows of a vector of the file, in another order."""

    rows: tuple[int, ...]
    count: int

    def to_model(self, array):
        return array[np.array(self.rows)]

    def to_file(self, array):
        result = np.zeros(self.count, array.dtype)
        result[np.array(self.rows)] = array
        return result


SOURCES = {
    ("params", "conv", "kernel"): Source("conv.weight", CONVOLUTION),
    ("params", "conv", "bias"): Source("conv.bias", VECTOR),
    ("params", "classes", "bias"): Source("head.bias", Rows((3, 1, 2), 5)),
    ("batch_stats", "bn", "var"): Source("bn.running_var", VECTOR),
}
TOY = Layout("toy", SOURCES.get, lambda name: "old" if name == "head.old" else counter(name))
VARIABLES = {
    "params": {
        "conv": {"kernel": np.zeros((3, 3, 2, 4), np.float32), "bias": np.zeros(4, np.float32)},
        "classes": {"bias": np.zeros(3, np.float32)},
    },
    "batch_stats": {"bn": {"var": np.ones(4, np.float32)}},
}


def toy_arrays(dtype=np.float32):
    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.standard_normal((4, 2, 3, 3)).astype(dtype),
        "conv.bias": np.array([-0.0, 1e-40, 2, 3], np.float32).astype(dtype),
        "head.bias": np.arange(5).astype(dtype) / 3,
        "head.old": np.arange(6, dtype=np.int8),
        "bn.running_var": rng.uniform(1, 2, 4).astype(dtype),
        "bn.num_batches_tracked": np.array(7),
    }


def save(path, arrays):
    save_file({name: np.array(value, order="C") for name, value in arrays.items()}, path)
    return path


def assert_same_bits(arrays, expected):
    assert {*arrays} == {*expected}
    for name, array in arrays.items():
        assert (array.dtype, array.shape) == (expected[name].dtype, expected[name].shape)
        assert array.tobytes() == expected[name].tobytes(), name


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_files_come_back_bit_for_bit(dtype, tmp_path):
    arrays = toy_arrays(dtype)
    loaded = load(save(tmp_path / "a.safetensors", arrays), VARIABLES, TOY)
    assert_equal(
        loaded.variables["params"]["classes"]["bias"], np.float32(arrays["head.bias"][[3, 1, 2]])
    )
    back = arrays_for_file(loaded.variables, TOY, loaded.rest)
    save(tmp_path / "b.safetensors", back)
    assert_same_bits(load_file(tmp_path / "b.safetensors"), arrays)


def test_only_what_the_variables_lack_is_returned_beside_them(tmp_path):
    loaded = load(save(tmp_path / "a.safetensors", toy_arrays()), VARIABLES, TOY)
    assert {*loaded.rest} == {"head.bias", "head.old", "bn.num_batches_tracked"}
    assert {*loaded.unused} == {"head.old", "bn.num_batches_tracked"}
    assert unused_texts(loaded.unused) == [
        "1 array: a counter of PyTorch's training",
        "1 array: old",
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_changed_values_are_written(dtype, tmp_path):
    arrays = toy_arrays(dtype)
    loaded = load(save(tmp_path / "a.safetensors", arrays), VARIABLES, TOY)
    loaded.variables["params"]["classes"]["bias"] = np.float32([8, 9, 2 / 3])
    back = arrays_for_file(loaded.variables, TOY, loaded.rest)
    expected = arrays["head.bias"].copy()
    expected[3], expected[1], expected[2] = 8, 9, 2 / 3
    assert_same_bits({"head.bias": back["head.bias"]}, {"head.bias": expected})


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_trained_values_stay_finite(name, tmp_path):
    """Values beyond the range of the file's dtype are written in the model's."""
    arrays = toy_arrays(np.dtype(name))
    loaded = load(save(tmp_path / "a.safetensors", arrays), VARIABLES, TOY)
    largest, beyond = float(ml_dtypes.finfo(name).max), np.finfo(np.float32).max
    loaded.variables["params"]["conv"]["bias"] = np.float32([largest, 1, 2, 3])
    loaded.variables["params"]["classes"]["bias"] = np.float32([beyond, 1, 2])
    back = arrays_for_file(loaded.variables, TOY, loaded.rest)
    assert (back["conv.bias"].dtype, back["conv.bias"][0]) == (arrays["conv.bias"].dtype, largest)
    expected = arrays["head.bias"].astype(np.float32)
    expected[3], expected[1], expected[2] = beyond, 1, 2
    assert_same_bits({"head.bias": back["head.bias"]}, {"head.bias": expected})


def test_values_that_are_not_finite_keep_the_precision_of_the_file(tmp_path):
    loaded = load(save(tmp_path / "a.safetensors", toy_arrays(np.float16)), VARIABLES, TOY)
    loaded.variables["params"]["conv"]["bias"] = np.float32([np.nan, np.inf, 2, 3])
    back = arrays_for_file(loaded.variables, TOY, loaded.rest)
    expected = np.float16([np.nan, np.inf, 2, 3])
    assert_same_bits({"conv.bias": back["conv.bias"]}, {"conv.bias": expected})


def test_variables_alone_make_a_file(tmp_path):
    arrays = toy_arrays()
    loaded = load(save(tmp_path / "a.safetensors", arrays), VARIABLES, TOY)
    back = arrays_for_file(loaded.variables, TOY)
    assert {*back} == {"conv.weight", "conv.bias", "head.bias", "bn.running_var"}
    assert_equal(back["head.bias"], arrays["head.bias"] * [0, 1, 1, 1, 0])
    assert back["conv.weight"].flags.c_contiguous
    assert_equal(back["conv.weight"], arrays["conv.weight"])


def test_several_files_are_read_as_one(tmp_path):
    arrays = toy_arrays()
    first = {name: arrays[name] for name in ("conv.weight", "conv.bias")}
    rest = {f"module.{name}": arrays[name] for name in arrays if name not in first}
    paths = [save(tmp_path / "1.safetensors", first), save(tmp_path / "2.safetensors", rest)]
    whole = load(save(tmp_path / "a.safetensors", arrays), VARIABLES, TOY)
    split = load(paths, VARIABLES, TOY)
    assert_equal(split.variables, whole.variables)
    assert split.unused == whole.unused
    with pytest.raises(WeightsError, match=r"1\.safetensors does not fit.*head\.bias: .*nothing"):
        load(paths[:1], VARIABLES, TOY)


def test_names_in_two_files_must_differ(tmp_path):
    path = save(tmp_path / "1.safetensors", toy_arrays())
    other = save(tmp_path / "2.safetensors", {"conv.bias": np.ones(4, np.float32)})
    with pytest.raises(WeightsError, match=r"1 in .*2\.safetensors.*conv\.bias"):
        load([path, other], VARIABLES, TOY)
    with pytest.raises(WeightsError, match=r"conv\.bias"):
        file_shapes([path, other])


def test_every_array_must_have_a_use_or_a_reason(tmp_path):
    arrays = toy_arrays() | {"head.new": np.ones(2, np.float32)}
    with pytest.raises(WeightsError, match=r" 1 of .*head\.new: expected nothing, found \[2\]"):
        load(save(tmp_path / "a.safetensors", arrays), VARIABLES, TOY)


def test_a_counter_must_be_one_number(tmp_path):
    """A file of tensors in one storage could excuse any of them by a name."""
    arrays = toy_arrays() | {"large.num_batches_tracked": np.ones(1000, np.float32)}
    message = r" 1 of .*large\.num_batches_tracked: expected one number, found \[1000\]"
    with pytest.raises(WeightsError, match=message):
        load(save(tmp_path / "a.safetensors", arrays), VARIABLES, TOY)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("backbone.body.conv1.weight", "names of torchvision: .*--from torchvision.* Faster R-CNN"),
        ("bbox_head.retina_cls.weight", "names of mmdet: .*--from mmdet.* Faster R-CNN .*FPN"),
        ("decode_head.conv_seg.weight", "names of mmseg: .*--from mmseg.* UperNet and PSPNet"),
        ("conv_last.weight", "names of csail: .*--from csail.* UperNet and PSPNet"),
        ("layer1.0.conv1.weight", "names of torchvision: .*--from torchvision.* ResNets"),
    ],
)
def test_networks_that_a_command_converts_are_named_for_files_with_such_names(
    name, advice, tmp_path
):
    """Other networks, such as RetinaNet, share names with those that are converted."""
    path = save(tmp_path / "a.safetensors", {name: np.ones((2, 2), np.float32)})
    with pytest.raises(WeightsError, match=f"the file has {advice}") as caught:
        load(path, VARIABLES, TOY)
    assert "loads" not in str(caught.value)


def test_the_shape_in_the_file_is_compared(tmp_path):
    arrays = toy_arrays() | {"head.bias": np.ones(3, np.float32)}
    with pytest.raises(WeightsError, match=r"head\.bias: expected \[5\], found \[3\]"):
        load(save(tmp_path / "a.safetensors", arrays), VARIABLES, TOY)


def test_variances_are_recognised_by_the_variable(tmp_path):
    arrays = toy_arrays()
    arrays["bn.running_var"][1] = -1
    with pytest.raises(WeightsError, match=r"bn\.running_var: 1 of 4 values negative"):
        load(save(tmp_path / "a.safetensors", arrays), VARIABLES, TOY)


def test_kept_submodules_are_reported_and_not_returned(tmp_path):
    loaded = load(save(tmp_path / "a.safetensors", toy_arrays()), VARIABLES, TOY, keep=["head"])
    kept = loaded.variables["params"]["classes"]["bias"]
    assert kept is VARIABLES["params"]["classes"]["bias"]
    assert {*loaded.unused} == {"head.bias", "head.old", "bn.num_batches_tracked"}
    assert {*loaded.rest} == {"bn.num_batches_tracked"}


def test_shapes_of_a_file(tmp_path):
    path = save(tmp_path / "a.safetensors", {f"module.{n}": v for n, v in toy_arrays().items()})
    assert file_shapes(path)["conv.weight"] == (4, 2, 3, 3)
