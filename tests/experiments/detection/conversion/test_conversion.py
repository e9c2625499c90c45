"""Files become runs, and runs become the same files."""

import functools
import pickle
import shlex
import types

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from experiments.data.coco import OFFICIAL_IDS
from experiments.detection import __main__ as command_line
from experiments.detection.configs import DetectionConfig
from experiments.detection.conventions import with_convention
from experiments.detection.conversion import conversion
from experiments.detection.conversion.conversion import (
    run_config,
    to_file,
    to_run,
    training_command,
)
from experiments.detection.conversion.layouts import layout
from experiments.detection.conversion.recognition import recognise
from experiments.detection.task import RUNS, read_categories
from experiments.engine import config as configs
from experiments.engine.claim import CONFIG
from experiments.models.fpn_config import FPNConfig
from experiments.models.input_config import InputConfig
from experiments.weights.loading import arrays_for_file, load
from experiments.weights.loading import file_shapes as weights_shapes
from tests.experiments.detection.conversion import key_lists
from tests.experiments.detection.conversion.networks import (
    CARAFE,
    assert_same,
    detector,
    narrow,
    random_file,
    shapes,
)

COUNTERS = {f"backbone.bn{index}.num_batches_tracked": np.array(7) for index in (1, 2)}
# As detectron2 publishes them.
CONSTANTS = {
    "pixel_mean": np.float32([103.53, 116.28, 123.675]).reshape(3, 1, 1),
    "pixel_std": np.ones((3, 1, 1), np.float32),
}
# The network, its library, the version of the names, and arrays that the network does not use.
FILES = {
    "torchvision": (detector(masks=True), "torchvision", "old", {}),
    "mmdet": (detector(masks=True, neck=CARAFE, mask="carafe"), "mmdet", "new", COUNTERS),
    "detectron2": (detector(), "detectron2", "new", CONSTANTS),
}


@pytest.fixture
def call(call_main):
    return functools.partial(call_main, command_line.main)


@pytest.mark.parametrize("name", ["mmdet", "detectron2"])
def test_the_arrays_of_a_file_come_back_bit_for_bit(name, tmp_path):
    model, library, names, extra = FILES[name]
    model = narrow(model)
    arrays = random_file(tmp_path / "a.safetensors", model, library, names, extra)
    of_library = layout(library, model, names)
    loaded = load(tmp_path / "a.safetensors", shapes(model), of_library)
    assert loaded.unused.keys() == extra.keys()
    assert_same(arrays_for_file(loaded.variables, of_library, loaded.rest), arrays)


@pytest.mark.parametrize(
    "name",
    [
        "torchvision",
        pytest.param("mmdet", marks=pytest.mark.slow),
        pytest.param("detectron2", marks=pytest.mark.slow),
    ],
)
def test_a_file_becomes_a_run_and_the_same_file(name, call, tmp_path):
    model, library, names, extra = FILES[name]
    model = narrow(model)
    weights, run, again = (tmp_path / each for each in ("a.safetensors", "run", "b.safetensors"))
    arrays = random_file(weights, model, library, names, extra)

    code, printed, error = call("convert", "--weights", weights, "--output", run)
    assert (code, error) == (0, "")
    assert f"format         {library}" in printed
    unused = "1 array" if len(extra) == 1 else f"{len(extra)} arrays" if extra else "none"
    assert f"not used       {unused}" in printed
    assert f"assumed        input {'BGR' if library == 'detectron2' else 'RGB'}, mean" in printed
    assert f"assumed        norm epsilon {0 if library == 'torchvision' else 1e-5:g}" in printed

    config = RUNS.load_config(run)
    assert with_convention(config, library).data == config.data
    assert config.model.neck == model.neck
    assert config.model.masks == model.masks
    assert [category.id for category in read_categories(run, 80)] == [*OFFICIAL_IDS]

    code, printed, error = call("convert", "--to", library, "--run", run, "--output", again)
    assert (code, error) == (0, "")
    assert "setting" not in printed
    assert_same(load_file(again), arrays)


def test_the_style_of_mmdet_decides_input_and_stride(call, tmp_path):
    """The arrays are the same, so the file that is written back is equal, too."""
    model = narrow(detector(), depth=50)
    weights, run, again = (tmp_path / each for each in ("a.safetensors", "run", "b.safetensors"))
    arrays = random_file(weights, model, "mmdet")
    found = recognise(weights_shapes(weights))
    assert run_config(found).model.backbone.input == InputConfig()
    code, printed, error = call(
        "convert", "--weights", weights, "--style", "caffe", "--output", run
    )
    assert (code, error) == (0, "")
    mean = "(103.53, 116.28, 123.675)"
    assert f"assumed        input BGR, mean {mean}, std (1.0, 1.0, 1.0), in bytes" in printed
    assert "assumed        stride in the first 1x1 convolution of a bottleneck" in printed
    assert "assumed        norm epsilon 1e-05" in printed
    config = RUNS.load_config(run)
    assert config == with_convention(run_config(found), "mmdet", "caffe")
    code, printed, error = call("convert", "--to", "mmdet", "--run", run, "--output", again)
    assert (code, error) == (0, "")
    assert f"not in file    input BGR, mean {mean}" in printed
    assert "setting" not in printed
    assert_same(load_file(again), arrays)


@pytest.mark.parametrize("library", ["torchvision", "detectron2"])
def test_other_libraries_have_no_style(library, call, tmp_path):
    weights = tmp_path / "a.safetensors"
    random_file(weights, narrow(detector()), library)
    code, _, error = call(
        "convert", "--weights", weights, "--style", "caffe", "--output", tmp_path / "run"
    )
    assert code == 2
    assert f"style must be left out for a file of {library}, got 'caffe'" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_parts_that_a_file_lacks_keep_their_initial_values(call, tmp_path):
    arrays = random_file(tmp_path / "a.safetensors", narrow(detector()), "mmdet")
    part = {name: array for name, array in arrays.items() if "lateral_convs.0" not in name}
    weights, run = tmp_path / "b.safetensors", tmp_path / "run"
    save_file(part, weights)
    code, _, error = call("convert", "--weights", weights, "--output", run)
    assert code == 2
    assert "neck.lateral_convs.0" in error
    code, printed, _ = call(
        "convert", "--weights", weights, "--output", run, "--keep", "neck.lateral_convs.0"
    )
    assert code == 0
    assert f"used           {len(part)} arrays" in printed
    neck = RUNS.load(run).state["params"]["neck"]
    assert np.asarray(neck["lateral_2"]["kernel"]).any()
    assert not np.asarray(neck["lateral_2"]["bias"]).any()


def test_a_file_of_torchvision_is_written_with_the_other_version_of_the_names(tmp_path):
    """Values of the classes that COCO lacks, and half precision, are those of the file."""
    model = narrow(detector(masks=True))
    arrays = random_file(tmp_path / "a.safetensors", model, "torchvision")
    new = {name: array.astype(np.float16) for name, array in arrays.items()}
    old = key_lists.renamed(new, key_lists.OLD_NAMES)
    assert old.keys() != new.keys()
    save_file(old, tmp_path / "old.safetensors")
    to_run(tmp_path / "old.safetensors", tmp_path / "run")
    for names, expected in (("new", new), ("old", old)):
        to_file(tmp_path / "run", tmp_path / f"{names}-2.safetensors", "torchvision", names)
        assert_same(load_file(tmp_path / f"{names}-2.safetensors"), expected)


@pytest.mark.slow
def test_a_pickle_of_detectron2_comes_back_bit_for_bit(tmp_path):
    arrays = random_file(tmp_path / "a.safetensors", narrow(detector()), "detectron2")
    weights, again = tmp_path / "a.pkl", tmp_path / "b.pkl"
    weights.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    to_run(weights, tmp_path / "run")
    to_file(tmp_path / "run", again, "detectron2")
    assert_same(pickle.loads(again.read_bytes())["model"], arrays)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A converted Mask R-CNN of mmdet, narrow."""
    folder = tmp_path_factory.mktemp("converted")
    model = narrow(FILES["mmdet"][0])
    random_file(folder / "weights.safetensors", model, "mmdet")
    to_run(folder / "weights.safetensors", folder / "run")
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("library", ["torchvision", "detectron2"])
def test_a_network_that_a_library_lacks_is_not_written(library, run, call, tmp_path):
    output = tmp_path / "weights.safetensors"
    code, _, error = call("convert", "--to", library, "--run", run, "--output", output)
    assert code == 2
    assert f"model.neck.kind must be 'fpn' for a file of {library}, got 'fpn_carafe'" in error
    assert not output.exists()


@pytest.mark.slow
def test_the_printed_command_gives_the_config_of_the_run(run, monkeypatch):
    """The command `train` continues a run only if its config is equal."""
    program, *options = shlex.split(training_command(run))[2:]
    assert program == "experiments.detection"
    trained = []
    monkeypatch.setattr(
        "experiments.engine.tables.experiment.run_config",
        lambda spec, config, output, *rest: trained.append((config, output)),
    )
    monkeypatch.setattr("sys.argv", ["detection", *options])
    command_line.main()
    assert trained == [(RUNS.load_config(run), run)]


def test_the_printed_command_is_quoted_for_a_shell(tmp_path):
    run = tmp_path / "my run; $(echo)"
    run.mkdir()
    configs.save(with_convention(DetectionConfig(), "mmdet"), run / CONFIG)
    command = training_command(run)
    assert shlex.split(command)[-2:] == ["--output", str(run)]
    assert command.endswith(f"--output '{run}'")


@pytest.mark.slow
def test_weights_go_from_one_library_to_another(tmp_path, call):
    """From mmdet to torchvision and back; classes that COCO lacks get no probability there."""
    model = narrow(detector(masks=True))
    weights, output, back = (tmp_path / f"{name}.safetensors" for name in "abc")
    arrays = random_file(weights, model, "mmdet")
    to_run(weights, tmp_path / "run")
    code, printed, _ = call(
        "convert", "--to", "torchvision", "--run", tmp_path / "run", "--output", output
    )
    assert code == 0
    assert "model.roi_align.aligned: False -> True in the run" in printed
    written = load_file(output)
    bias = written["roi_heads.box_predictor.cls_score.bias"]
    expected = arrays["roi_head.bbox_head.fc_cls.bias"]
    np.testing.assert_array_equal(bias[[*OFFICIAL_IDS, 0]], expected)
    to_run(output, tmp_path / "again")
    to_file(tmp_path / "again", back, "mmdet")
    assert_same(load_file(back), arrays)


@pytest.mark.parametrize(
    ("library", "neck", "expected"),
    [
        ("mmdet", FPNConfig("fpn", "carafe"), "'nearest'"),
        ("mmdet", FPNConfig("fpn_carafe", "bilinear"), "'nearest' or 'carafe'"),
        ("detectron2", FPNConfig("fpn", "carafe"), "'nearest'"),
    ],
)
def test_the_message_about_an_upsampler_names_one_field(
    library, neck, expected, monkeypatch, tmp_path
):
    loaded = types.SimpleNamespace(config=DetectionConfig(model=detector(neck=neck)))
    monkeypatch.setattr(conversion, "RUNS", types.SimpleNamespace(load=lambda *_: loaded))
    message = f"model.neck.upsampler must be {expected} for a file of {library}, "
    with pytest.raises(configs.ConfigError, match=f"^{message}got '{neck.upsampler}'"):
        to_file(tmp_path / "run", tmp_path / "a.safetensors", library)


READ = ("--weights", "a", "--output", "b")
WRITE = ("--to", "mmdet", "--run", "a", "--output", "b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "a"], "output must be the folder of the new run"),
        (["--to", "mmdet", "--run", "a"], "output must be the new file"),
        (["--to", "mmdet", "--output", "a"], "the options of convert"),
        ([*READ, "--names", "old"], "names must be left out with --weights, got 'old'"),
        ([*READ, "--checkpoint", "newest"], "checkpoint must be left out with --weights"),
        ([*WRITE, "--names", "old"], "names must be left out with --to mmdet, got 'old'"),
        ([*WRITE, "--norm-epsilon", "0"], "norm_epsilon must be left out with --to, got 0.0"),
        ([*WRITE, "--keep", "neck"], "keep must be left out with --to, got ('neck',)"),
        ([*WRITE, "--style", "caffe"], "style must be left out with --to, got 'caffe'"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(options, message, call):
    code, _, error = call("convert", *options)
    assert code == 2
    assert message in error
