"""Tests conversions of whole runs, with narrow networks in the libraries' names."""

import contextlib
import functools
import io
import re
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from experiments.data.ade20k_names import NAMES
from experiments.engine.claim import is_converted
from experiments.engine.config import ConfigError
from experiments.models.resnet_config import ResNetConfig
from experiments.segmentation import __main__ as command_line
from experiments.segmentation.conversion.convert import convert
from experiments.segmentation.conversion.libraries import in_backbone
from experiments.segmentation.conversion.networks import check_network, config_of
from experiments.segmentation.model.config import SegmenterConfig
from experiments.segmentation.task import RUNS, read_class_names
from experiments.weights.files import open_weights
from experiments.weights.loading import WeightsError
from tests.experiments.segmentation.conversion.key_lists import key_list

CSAIL, MMSEG = "csail_pspnet18", "mmseg_upernet50"


def narrow(shape):
    """A sixteenth of all channels, except for images, kernels and classes."""
    return tuple(side if side in (1, 3, 7, 150) else max(1, side // 16) for side in shape)


def key_list_with_stem7(name):
    """The key list of a ResNet-18 with a 7x7 convolution instead of the first three."""
    removed = ("conv2.", "conv3.", "bn2.", "bn3.", "layer1.0.downsample.")
    keys = {key: shape for key, shape in key_list(name).items() if not key.startswith(removed)}
    return keys | {"conv1.weight": (64, 3, 7, 7), "layer1.0.conv1.weight": (64, 64, 3, 3)}


@functools.cache
def arrays_of(name, stem7=False):
    """Arrays of a narrow network with random values, by name."""
    rng = np.random.default_rng(0)
    arrays = {}
    for key, shape in (key_list_with_stem7 if stem7 else key_list)(name).items():
        value = rng.uniform(0.1, 1, narrow(shape)).astype(np.float32)
        counts = key.endswith("num_batches_tracked")
        arrays[key] = np.array(7) if counts else value / max(1, value[0].size)
    return arrays


def files_of(name, folder, stem7=False):
    """Writes a network to one file, or to encoder and decoder."""
    arrays = arrays_of(name, stem7)
    start = next((i for i, key in enumerate(arrays) if key.startswith(("ppm.", "ppm_"))), None)
    keys = list(arrays)
    paths = []
    for index, part in enumerate([keys[:start], keys[start:]] if start else [keys]):
        paths.append(folder / f"{index}.safetensors")
        save_file({key: arrays[key] for key in part}, paths[-1])
    return paths


def command(*arguments):
    """Calls the command line in this process, and returns the lines that it prints."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", ["segmentation", *map(str, arguments)])
        command_line.main()
    return printed.getvalue().splitlines()


@pytest.fixture(scope="module", params=[CSAIL, pytest.param(MMSEG, marks=pytest.mark.slow)])
def converted(request, tmp_path_factory):
    """The name of a network, its files, the run, and the lines that the command printed."""
    folder = tmp_path_factory.mktemp(request.param)
    paths, run = files_of(request.param, folder), folder / "run"
    return request.param, paths, run, command("convert", "--weights", *paths, "--output", run)


def assert_same(found, expected):
    """Asserts that two files have the same arrays, bit for bit."""
    assert {*found} == {*expected}
    for key, array in expected.items():
        assert (found[key].dtype, found[key].shape) == (array.dtype, array.shape)
        assert found[key].tobytes() == array.tobytes(), key


def test_a_run_comes_back_bit_for_bit(converted, tmp_path):
    name, paths, run, _ = converted
    outputs = [tmp_path / path.name for path in paths]
    library = name.partition("_")[0]
    lines = command("convert", "--to", library, "--run", run, "--output", *outputs)
    assert lines == [*map(str, outputs)]
    for path, output in zip(paths, outputs, strict=True):
        assert_same(load_file(output), load_file(path))


def without_counters(arrays):
    return {key: x for key, x in arrays.items() if not key.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def stem7(tmp_path_factory):
    """The files of a network of CSAILVision with a 7x7 convolution, and the run."""
    folder = tmp_path_factory.mktemp("stem7")
    paths = files_of(CSAIL, folder, stem7=True)
    command("convert", "--weights", *paths, "--output", folder / "run")
    return paths, folder / "run"


def test_a_run_with_a_7x7_convolution_comes_back(stem7, tmp_path):
    paths, run = stem7
    outputs = [tmp_path / "encoder.pth", tmp_path / "decoder.pth"]
    command("convert", "--to", "csail", "--run", run, "--output", *outputs)
    for path, output in zip(paths, outputs, strict=True):
        with open_weights(output) as entries:
            found = {name: entry.read() for name, entry in entries.items()}
        assert_same(without_counters(found), without_counters(load_file(path)))


def test_a_file_of_another_library_has_only_its_arrays(stem7, tmp_path):
    output, again = tmp_path / "weights.safetensors", tmp_path / "run"
    command("convert", "--to", "mmseg", "--run", stem7[1], "--output", output)
    modules = {name.partition(".")[0] for name in load_file(output)}
    assert modules == {"backbone", "decode_head", "auxiliary_head"}
    assert convert([output], again) == []


def test_what_a_run_does_not_use_is_listed(converted):
    name, _, run, (first, *lines) = converted
    assert first == str(run)
    unused = [line.removeprefix("not used: ") for line in lines]
    reasons = {re.sub(r"\d+ arrays: ", "", text) for text in unused}
    sums = {"a sum of the synchronised BatchNorm, which only training needs"}
    expected = {"a counter of PyTorch's training"} | (sums if name == CSAIL else set())
    assert reasons == expected
    counts = sum(int(text.partition(" ")[0]) for text in unused)
    endings = ("num_batches_tracked", "_tmp_running_mean", "_tmp_running_var", "_running_iter")
    assert counts == sum(key.endswith(endings) for key in key_list(name))


def test_a_converted_run_has_config_and_classes(converted):
    name, _, run, _ = converted
    assert is_converted(run)
    assert read_class_names(run, 150) == NAMES
    config = RUNS.load_config(run)
    assert not config.pretrained
    data = config.data
    limits = (data.test_shorter, data.longer)
    assert limits == ((450, 1000) if name == CSAIL else (512, 2048))


@pytest.mark.slow
def test_a_converted_run_predicts(converted, tmp_path):
    image, output = tmp_path / "image.png", tmp_path / "output"
    Image.new("RGB", (60, 50), (90, 20, 200)).save(image)
    (line,) = command("predict", image, "--run", converted[2], "--output", output)
    assert any(f" {name} " in line for name in NAMES), line
    assert (output / "image-labels.png").exists()


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        command(*arguments)
    error = capsys.readouterr().err
    assert (ended.value.code, len(error.splitlines())) == (2, 1), error
    return error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", r"--weights.*--to.*got \[\]"),
        ("--weights w --run r --output o", r"got \['--weights', '--run'\]"),
        ("--weights w", r"output.*folder.*got \[\]"),
        ("--weights w --output a b", r"output.*folder.*'a', 'b'"),
        ("--weights w --output o --checkpoint best", r"checkpoint.*--weights.*'best'"),
        ("--to mmseg --run r", r"output.*files.*\[\]"),
        ("--to csail --run r --output o", r"two files.*encoder.*'o'"),
        ("--to mmseg --run r --output a b", r"one for mmseg.*'a', 'b'"),
    ],
)
def test_impossible_options_are_refused(options, message, capsys):
    assert re.search(message, refusal(capsys, "convert", *options.split()))


CHANGES = {
    "the decoder is missing": (
        CSAIL,
        lambda arrays: {key: x for key, x in arrays.items() if in_backbone("csail", key)},
        "csail or mmseg.*decoder is missing",
    ),
    "the encoder is missing": (
        CSAIL,
        lambda arrays: {key: x for key, x in arrays.items() if not in_backbone("csail", key)},
        r"UperNet or a PSPNet of csail.*CSAILVision's PSPNet, no ResNet",
    ),
    "another decoder": (
        CSAIL,
        lambda arrays: {key: x for key, x in arrays.items() if "ppm" not in key},
        r"UperNet or a PSPNet of csail.*another decoder, ResNet-18",
    ),
    "other classes": (
        MMSEG,
        lambda arrays: (
            arrays | {"decode_head.conv_seg.weight": np.ones((19, 32, 1, 1), np.float32)}
        ),
        r"150 classes of ADE20K.*mmseg's UperNet, ResNet-50 .*19 classes",
    ),
    "an additional array and other channels": (
        CSAIL,
        lambda arrays: arrays | dict.fromkeys(("extra", "ppm.1.2.bias"), np.ones(2, np.float32)),
        r" 2 of .*file is of CSAILVision's PSPNet, ResNet-18 .*model is CSAILVision's PSPNet.*"
        r"extra: expected nothing, found \[2\]; ppm\.1\.2\.bias: expected \[32\], found \[2\]",
    ),
    "a detector": (
        MMSEG,
        lambda arrays: {key.replace("decode_head", "roi_head"): x for key, x in arrays.items()},
        r"csail or mmseg.*--from mmdet.*experiments\.detection convert",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_files_of_other_networks_are_described(change, tmp_path):
    name, altered, message = CHANGES[change]
    path = tmp_path / "weights.safetensors"
    save_file(altered(arrays_of(name)), path)
    with pytest.raises(WeightsError, match=message):
        convert([path], tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("library", "fields", "message"),
    [
        ("csail", {"architecture": "psanet"}, r"model\.architecture.*'pspnet' for .*'psanet'"),
        (
            "csail",
            {"backbone": ResNetConfig(50, stem="v1c")},
            r"model\.backbone\.stem.*'deep' or 'conv7' .*'v1c'",
        ),
        ("mmseg", {}, "stem.*'deep'"),
        ("csail", {"fpn": "carafe"}, "model.fpn: 'carafe' -> 'bilinear'"),
        (
            "csail",
            {"backbone": ResNetConfig(50, "carafe", stem="deep")},
            "downsampler: 'carafe' -> 'strided'",
        ),
        ("csail", {"pooling_order": "convolution_first"}, "pooling_order: 'convolution_first'"),
    ],
)
def test_networks_that_a_library_lacks_are_refused(library, fields, message):
    with pytest.raises(ConfigError, match=message):
        check_network(library, SegmenterConfig(**fields))


@pytest.mark.parametrize("name", [CSAIL, MMSEG])
def test_networks_of_a_library_are_its_own(name):
    library = name.partition("_")[0]
    check_network(library, config_of(library, key_list(name)).model)
