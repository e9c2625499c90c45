"""Compares presets with the paper's tables, which are repeated here."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import pytest

from experiments.detection.configs import DetectionConfig
from experiments.detection.model.config import ProposalConfig
from experiments.detection.presets import EXPERIMENTS, METRICS, PRESETS
from experiments.detection.task import make_model, make_optimizer
from experiments.engine import config as configs
from experiments.engine.config import ConfigError
from experiments.models.resnet_config import ResNetConfig

COCO_IMAGES = 117_266  # images of train2017 with an object to train on

# AP of boxes and AP of masks for each row.
PAPER = {
    "table1": [
        *((39.7, None), (42.2, None), (40.8, 37.0), (43.2, 39.1)),
        *((43.2, None), (44.3, None), (44.2, 39.7), (45.3, 40.6)),  # with DCNv2
    ],
    "table3": [(ap, None) for ap in (36.5, 37.8, 37.9, 37.7, 38.0, 38.8)],
    "table4": [(ap, None) for ap in (36.5, 36.7, 36.6, 36.6, 36.4, 36.5, 36.9, 36.9, 37.8)],
    "table5": [(ap, None) for ap in (36.5, 37.8, 38.8, 39.6)],
    "table6": [(None, ap) for ap in (32.7, 34.2, 34.2, 34.4, 34.3, 34.1, 34.7)],
    "table7": [(37.4, 34.2), (38.6, 35.2), (37.3, 34.7), (38.6, 35.6), (39.5, 35.9), (40.3, 36.8)],
    "table11": [(ap, None) for ap in (37.6, 37.7, 37.8, 37.8, 37.8, 37.8)],
    "table13": [(ap, None) for ap in (37.3, 37.3, 37.3, 37.8, 37.7, 37.8, 38.1, 38.0)],
    "table14": [(ap, None) for ap in (37.4, 37.8, 37.8)],
}
TABLES = {
    name: experiment.presets for name, experiment in EXPERIMENTS.items() if name.startswith("table")
}


@functools.cache
def parameter_shapes(config):
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    model = make_model(config)
    key = jax.random.key(0)
    return jax.eval_shape(lambda key: model.lazy_init(key, image, method="layers"), key)["params"]


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def changed_model(config, **fields):
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **fields))


def models(table):
    return [preset.config.model for preset in TABLES[table]]


def test_every_row_of_the_paper_has_a_preset_of_its_own_with_the_papers_scores():
    assert TABLES.keys() == PAPER.keys()
    for name, rows in PAPER.items():
        of_paper = [preset for preset in TABLES[name] if not preset.group]
        for preset, (box, mask) in zip(of_paper, rows, strict=True):
            assert preset.name.startswith(f"{name}-")
            assert (preset.paper.get("box_AP"), preset.paper.get("mask_AP")) == (box, mask)
            assert preset.paper.keys() <= {metric.name for metric in METRICS}
    names = [preset.name for preset in PRESETS]
    assert len(set(names)) == len(names)
    # The small versions of Table 4, and the upsamplers that were published later.
    assert len(PRESETS) == sum(map(len, PAPER.values())) + 8 + 5
    whole = list(itertools.chain(*TABLES.values()))
    assert len({preset.row for preset in whole}) == len(whole)


def test_within_a_table_no_two_rows_are_the_same():
    for experiment in EXPERIMENTS.values():
        configs_of = [preset.config for preset in experiment.presets]
        assert all(a != b for a, b in itertools.combinations(configs_of, 2))


def test_all_tables_are_on_coco_at_the_papers_sizes():
    for preset in itertools.chain(*TABLES.values()):
        config = preset.config
        data, training, model = config.data, config.training, config.model
        assert (data.source, data.shorter, data.longer, data.flip) == ("coco", 800, 1333, True)
        optimizer = training.optimizer
        assert (training.batch_size, optimizer.name, optimizer.learning_rate) == (16, "sgd", 0.02)
        assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 1e-4)
        assert (model.backbone.norm, model.frozen_stages) == ("frozen", 1)
        assert (model.anchors.scale, model.anchors.strides) == (8, (4, 8, 16, 32, 64))
        assert (config.anchor_sampler.count, config.proposal_sampler.count) == (256, 512)
        first = preset.name.startswith("table1-")
        assert model.backbone.depth == (101 if first else 50)
        assert training.schedule.length == (24 if first else 12)
        assert model.masks == (data.mask_side is not None) == ("mask_AP" in preset.paper)


def test_settings_equal_those_of_detectron2_and_mmdet_2():
    """Exceptions and their reasons are in ``experiments/README.md``."""
    for config in {preset.config for preset in itertools.chain(*TABLES.values())}:
        model, anchors, rois = config.model, config.anchor_sampler, config.proposal_sampler
        assert model.anchors.ratios == (0.5, 1.0, 2.0)
        assert (anchors.positives, anchors.positive_iou, anchors.negative_iou) == (0.5, 0.7, 0.3)
        assert (rois.positives, rois.positive_iou, rois.negative_iou) == (0.25, 0.5, 0.5)
        assert (anchors.best_for_each, rois.best_for_each) == (True, False)
        assert model.proposals == ProposalConfig(per_level=1000, kept=1000, iou_threshold=0.7)
        box, mask = model.box, model.mask
        assert (box.size, box.features, box.class_agnostic) == (7, 1024, False)
        assert (box.score_threshold, box.iou_threshold, box.detections) == (0.05, 0.5, 100)
        assert (mask.size, mask.layers, mask.features) == (14, 4, 256)
        assert not mask.class_agnostic
        # As in mmdet 1.
        assert model.training_proposals == ProposalConfig(2000, 2000, 0.7)
        assert not config.training.optimizer.decay_all
        assert config.data.max_objects == 100


def test_rows_differ_only_in_the_choices_of_their_table():
    backbones = [model.backbone.downsampler for model in models("table3")]
    assert backbones == ["strided", "max_pool", "avg_pool", "dpp", "lip", "carafe"]
    upsamplers = ["nearest", "bilinear", "nearest_conv", "bilinear_conv", "deconvolution"]
    upsamplers += ["pixel_shuffle", "guided", "spatial_attention", "carafe"]
    later = ["dysample", "dysample_plus", "fade", "fade_lite", "sapa"]
    assert [model.neck.upsampler for model in models("table4")] == upsamplers + later
    assert [bool(preset.group) for preset in TABLES["table4"]] == 9 * [False] + 5 * [True]
    without = [name for name in upsamplers if not name.endswith("_conv")]
    assert [model.mask.upsampler for model in models("table6")] == without
    assert {model.neck.upsampler for model in models("table6")} == {"nearest"}

    def where(model):
        sites = {
            "neck": model.neck.upsampler,
            "mask": model.masks and model.mask.upsampler,
            "backbone": model.backbone.downsampler,
        }
        return {site for site, method in sites.items() if method == "carafe"}

    assert list(map(where, models("table5"))) == [
        set(), {"neck"}, {"backbone"}, {"neck", "backbone"}
    ]  # fmt: skip
    everywhere = {"neck", "mask", "backbone"}
    assert list(map(where, models("table7"))) == [
        set(), {"neck"}, {"mask"}, {"neck", "mask"}, {"backbone"}, everywhere
    ]  # fmt: skip
    rows = [set(), {"neck", "backbone"}, set(), everywhere]
    assert list(map(where, models("table1"))) == 2 * rows
    deformable = [model.backbone.deformable_stages for model in models("table1")]
    assert deformable == 4 * [(False,) * 4] + 4 * [(False, True, True, True)]

    studied = {
        table: [
            (each.compressed_channels, each.encoder_size, each.kernel_size, each.normalizer)
            for each in (model.neck.carafe for model in models(table))
        ]
        for table in ("table11", "table13", "table14")
    }
    assert studied["table11"] == [
        (channels, 3, 5, "softmax") for channels in (16, 32, 64, 128, 256, None)
    ]
    sizes = [(1, 3), (1, 5), (3, 3), (3, 5), (3, 7), (5, 5), (5, 7), (7, 7)]
    assert studied["table13"] == [(64, *pair, "softmax") for pair in sizes]
    assert [fields[-1] for fields in studied["table14"]] == [
        "sigmoid", "sigmoid_normalized", "softmax"
    ]  # fmt: skip
    for table in studied:
        assert {where(model) == {"neck"} for model in models(table)} == {True}


@pytest.mark.parametrize(
    ("table", "length", "rates"),
    [
        # 117,266 images are 7,329 batches of 16. The rates are just before and after milestones.
        (
            "table4",
            87_948,
            {500: 0.02, 58_631: 0.02, 58_633: 2e-3, 80_618: 2e-3, 80_620: 2e-4, 87_947: 2e-4},
        ),
        ("table1", 175_896, {500: 0.02, 117_263: 0.02, 117_265: 2e-3, 161_239: 2e-4}),
    ],
)
def test_the_schedules_equal_mmdets(table, length, rates):
    config = TABLES[table][0].config
    epoch = COCO_IMAGES // 16
    schedule = config.training.schedule
    assert schedule.steps(schedule.length, epoch) == length
    _, rate = make_optimizer(config, epoch)
    # 500 warmup steps.
    for step, expected in ({0: 0, 250: 0.01} | rates).items():
        assert float(rate(step)) == pytest.approx(expected, rel=2e-3), step


@pytest.mark.parametrize("batch_size", [4, 32])
def test_the_learning_rate_scales_with_the_batch_size_and_milestones_stay_in_epochs(batch_size):
    config = TABLES["table4"][0].config
    training = dataclasses.replace(config.training, batch_size=batch_size)
    config, epoch = dataclasses.replace(config, training=training), COCO_IMAGES // batch_size
    _, rate = make_optimizer(config, epoch)
    highest = 0.02 * batch_size / 16
    for epochs, expected in {
        1: highest,
        7.9: highest,
        8.1: highest / 10,
        11.1: highest / 100,
    }.items():
        assert float(rate(round(epochs * epoch))) == pytest.approx(expected, rel=1e-3)
    warmup = 500 * 16 / batch_size
    assert float(rate(round(warmup / 2))) == pytest.approx(highest / 2, rel=1e-2)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_a_preset_can_be_saved_and_its_help_shows_its_command(preset, tmp_path):
    configs.save(preset.config, tmp_path / "config.json")
    assert configs.load(DetectionConfig, tmp_path / "config.json") == preset.config
    text = preset.describe("detection", METRICS)
    assert f"experiments.detection train {preset.name}." in text
    assert ("Published later: " if preset.group else "Paper: ") in text
    assert ("Measured: not run yet" in text) == (not preset.measured)


def test_the_speed_of_the_rows_of_table_1():
    speeds = [preset.paper["fps"] for preset in TABLES["table1"]]
    assert speeds == [10.3, 9.9, 7.6, 7.3, 8.5, 8.3, 6.7, 6.5]


@pytest.mark.slow
def test_upsamplers_have_the_parameters_of_their_layers():
    """The parameters of an upsampler by hand, and their excess over nearest upsampling."""
    shallow = ResNetConfig(18, norm="frozen")
    found = {
        preset.config.model.neck.upsampler: count(
            parameter_shapes(changed_model(preset.config, backbone=shallow))
        )
        for preset in TABLES["table4"]
        if preset.config.model.neck.upsampler not in ("guided", "spatial_attention")
    }
    nearest = found.pop("nearest")
    carafe = (256 * 64 + 64) + (9 * 64 * 100 + 100)
    sites = {
        "bilinear": 0,
        "nearest_conv": 9 * 256 * 256 + 256,
        "bilinear_conv": 9 * 256 * 256 + 256,
        "deconvolution": 9 * 256 * 256 + 256,
        "pixel_shuffle": 9 * 256 * 1024 + 1024,
        "carafe": carafe,
        "dysample": 32_768 / 4,
        "dysample_plus": 65_536 / 4,
        "fade": 285_084 / 6,
        "fade_lite": 79_992 / 6,
        "sapa": 2 * (256 * 32 + 32) + 4 * 256,
    }
    assert {name: (total - nearest) / 3 for name, total in found.items()} == sites


@pytest.mark.parametrize(
    ("preset", "classes"),
    [(TABLES["table4"][0], 80), (TABLES["table7"][0], 80)],
    ids=["faster-rcnn", "mask-rcnn"],
)
def test_the_number_of_parameters_of_a_standard_detector_by_hand(preset, classes):
    params = parameter_shapes(preset.config)
    # ResNet-50 has 25,557,032, its classifier 2,049,000 of them.
    assert count(params["backbone"]) == 25_557_032 - 2_049_000
    assert count(params["neck"]) == 984_064 + 4 * 590_080
    assert count(params["rpn"]) == 590_080 + 256 * (3 + 12) + 15
    hidden = 49 * 256 * 1024 + 1024 + 1024 * 1024 + 1024
    assert count(params["box_head"]) == hidden + 1025 * (classes + 1 + 4 * classes)
    masks = 4 * 590_080 + (4 * 256 * 256 + 256) + 257 * classes
    assert count(params.get("mask_head", {})) == (masks if preset.config.model.masks else 0)


@pytest.mark.slow
def test_every_preset_builds():
    """Backbones are shallow here; the tests of the classification task build the full ones."""
    built = {}
    for preset in PRESETS:
        shallow = dataclasses.replace(
            preset.config.model.backbone, depth=18, deformable_stages=(False,) * 4
        )
        config = changed_model(preset.config, backbone=shallow)
        key = (config.model, config.data.source)
        if key not in built:
            built[key] = parameter_shapes(config)
        assert built[key].keys() == {"backbone", "neck", "rpn", "box_head"} | (
            {"mask_head"} if config.model.masks else set()
        )
    assert len(built) > 40


def test_masks_without_a_head_and_a_head_without_masks_are_refused():
    config = TABLES["table7"][0].config
    with pytest.raises(ConfigError, match=r"mask_side.* 56"):
        changed_model(config, masks=False)
