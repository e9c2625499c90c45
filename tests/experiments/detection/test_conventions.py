import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.detection.configs import DetectionConfig
from experiments.detection.conventions import with_convention
from experiments.detection.data.config import DataConfig
from experiments.detection.losses import make_loss_function
from experiments.detection.model.config import (
    BoxHeadConfig,
    DetectorConfig,
    ProposalConfig,
    RoIAlignConfig,
)
from experiments.engine.config import ConfigError, differences, load, save
from experiments.models.fpn_config import FPNConfig
from experiments.models.input_config import InputConfig
from experiments.models.resnet_config import ResNetConfig
from tests.compilation import jit
from tests.experiments.detection.losses.batches import make_batch, make_config
from tests.experiments.detection.model.shallow import CLASSES, CONFIG, Shallow, random_variables

CONFIGS = {
    "Faster R-CNN": DetectionConfig(),
    "Faster R-CNN with CARAFE++": DetectionConfig(
        model=DetectorConfig(neck=FPNConfig(upsampler="carafe"))
    ),
    "Mask R-CNN with FPN_CARAFE": DetectionConfig(
        model=DetectorConfig(neck=FPNConfig("fpn_carafe", "carafe"), masks=True),
        data=DataConfig(mask_side=28),
    ),
}
TRAINING = ProposalConfig(2000, 2000)
INFERENCE = ProposalConfig(1000, 1000)
# The fields that differ from the defaults, from the sources of the libraries.
CHANGED = {
    "torchvision": {
        "model.backbone.norm_epsilon": 0.0,
        "model.anchors.rounded": True,
        "model.anchors.measured_strides": True,
        "model.training_proposals.in_padding": True,
        "model.training_proposals.shortest_side": 1e-3,
        "model.proposals.in_padding": True,
        "model.proposals.shortest_side": 1e-3,
        "model.roi_align.aligned": False,
        "data.rounding": "floor",
    },
    "detectron2": {
        "model.backbone.stride_in_1x1": True,
        "model.backbone.input.channels": "bgr",
        "model.backbone.input.mean": (103.53, 116.28, 123.675),
        "model.backbone.input.std": (1.0, 1.0, 1.0),
        "model.training_proposals.kept": 1000,
        "model.training_proposals.in_padding": True,
        "model.training_proposals.shortest_side": 0.0,
        "model.proposals.in_padding": True,
        "model.proposals.shortest_side": 0.0,
        "model.roi_align.sampling_ratio": 0,
        "model.box.shortest_side": None,
    },
    "mmdet": {
        "model.training_proposals.kept": 1000,
        "model.training_proposals.in_padding": True,
        "model.training_proposals.shortest_side": 0.0,
        "model.training_proposals.clamps_shrinking": True,
        "model.proposals.in_padding": True,
        "model.proposals.shortest_side": 0.0,
        "model.proposals.clamps_shrinking": True,
        "model.roi_align.sampling_ratio": 0,
        "model.box.shortest_side": None,
        "model.box.clamps_shrinking": True,
    },
}


def field(config, path):
    for name in path.split("."):
        config = getattr(config, name)
    return config


@pytest.mark.parametrize("convention", CHANGED)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_convention_changes_these_fields_and_no_others(name, convention):
    config = CONFIGS[name]
    expected = dict(CHANGED[convention])
    if convention == "mmdet" and config.model.neck.kind == "fpn_carafe":
        expected["data.pad_multiple"] = 64
    found = with_convention(config, convention)
    assert {each.partition(":")[0] for each in differences(config, found)} == expected.keys()
    for path, value in expected.items():
        assert field(found, path) == value, path


@pytest.mark.parametrize("before", CHANGED)
@pytest.mark.parametrize("convention", CHANGED)
def test_a_convention_replaces_another(before, convention):
    config = CONFIGS["Mask R-CNN with FPN_CARAFE"]
    twice = with_convention(with_convention(config, before), convention)
    assert twice == with_convention(config, convention)


def test_sizes_and_training_are_kept(tmp_path):
    config = DetectionConfig(
        model=DetectorConfig(
            backbone=ResNetConfig(101, norm="batch"),
            proposals=ProposalConfig(300, 200, 0.6),
            box=BoxHeadConfig(score_threshold=0.3, detections=10),
        ),
        data=DataConfig("scenes", shorter=320, longer=427),
    )
    found = with_convention(config, "detectron2")
    assert found.model.backbone.depth == 101
    assert found.model.backbone.norm == "batch"
    assert found.model.proposals == ProposalConfig(300, 200, 0.6, True, 0.0)
    assert found.model.box.detections == 10
    assert found.data == config.data
    assert found.training == config.training
    save(found, tmp_path / "config.json")
    assert load(DetectionConfig, tmp_path / "config.json") == found


def test_backbones_that_a_library_does_not_have():
    basic = DetectionConfig(model=DetectorConfig(backbone=ResNetConfig(18)))
    assert not with_convention(basic, "detectron2").model.backbone.stride_in_1x1
    carafe = DetectionConfig(model=DetectorConfig(backbone=ResNetConfig(50, "carafe")))
    with pytest.raises(ConfigError, match=r"stride_in_1x1.*'carafe'.* True"):
        with_convention(carafe, "detectron2")
    assert with_convention(carafe, "mmdet").model.backbone.input == InputConfig()


def test_caffe_models_of_mmdet_have_the_input_and_the_stride_of_detectron2():
    config = CONFIGS["Mask R-CNN with FPN_CARAFE"]
    found = with_convention(config, "mmdet", "caffe")
    pytorch = with_convention(config, "mmdet")
    changed = {each.partition(":")[0] for each in differences(pytorch, found)}
    names = ("input.channels", "input.mean", "input.std", "stride_in_1x1")
    assert changed == {f"model.backbone.{name}" for name in names}
    for name in names:
        path = f"model.backbone.{name}"
        assert field(found, path) == CHANGED["detectron2"][path]
    with pytest.raises(ConfigError, match=r"style.*torchvision.*'caffe'"):
        with_convention(config, "torchvision", "caffe")
    with pytest.raises(ConfigError, match=r"style.*'pytorch', 'caffe'.*'tensorflow'"):
        with_convention(config, "mmdet", "tensorflow")


def test_an_unknown_convention_is_refused():
    with pytest.raises(ConfigError, match=r"convention.*'mmdet'.*'mmdet3'"):
        with_convention(DetectionConfig(), "mmdet3")


@pytest.mark.slow
@pytest.mark.parametrize("convention", CHANGED)
def test_losses_and_gradients_are_finite(convention):
    config = with_convention(make_config(CONFIG), convention)
    model = Shallow(config.model, CLASSES)
    params = random_variables(model)["params"]
    function = make_loss_function(model, config)
    run = jit(jax.grad(lambda params, batch: function(params, {}, batch, jax.random.key(0)).loss))
    gradient = run(params, make_batch(4, 7))
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
        assert np.asarray(leaf).any()


@pytest.mark.parametrize("options", [RoIAlignConfig(), RoIAlignConfig(False, 0)])
def test_both_heads_sample_the_pyramid_as_the_config_says(options, monkeypatch):
    asked = []

    def fake(pyramid, strides, boxes, levels, size, sampling_ratio, aligned):
        asked.append((size, sampling_ratio, aligned))
        return jnp.zeros((*levels.shape, size, size, pyramid[0].shape[-1]))

    monkeypatch.setattr("experiments.detection.model.detector.roi_align", fake)
    model = Shallow(dataclasses.replace(CONFIG, roi_align=options), CLASSES)
    image = np.zeros((1, 64, 64, 3), np.float32)
    jax.eval_shape(functools.partial(model.init, method="layers"), jax.random.key(0), image)
    sides = (CONFIG.box.size, CONFIG.mask.size)
    assert asked == [(side, options.sampling_ratio, options.aligned) for side in sides]
