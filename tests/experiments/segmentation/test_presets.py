"""Compares presets with the paper's tables, which are repeated here."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.classification.backbone import backbone_folder
from experiments.classification.presets import PRESETS as CLASSIFIERS
from experiments.engine import config as configs
from experiments.engine.config import ConfigError
from experiments.engine.runs import preset_of
from experiments.segmentation.configs import SegmentationConfig
from experiments.segmentation.presets import EXPERIMENTS, METRICS, PRESETS
from experiments.segmentation.task import make_model, make_optimizer
from tests.slow import slow

# mIoU and pixel accuracy of each row.
PAPER = {
    "table8": [
        (41.68, 80.04),
        (41.92, 80.17),
        (40.44, 79.80),
        (43.05, 80.81),
        (41.96, 80.64),
        (42.75, 80.71),
        (42.00, 80.79),
        (43.94, 81.26),
    ],
    "table9": [
        (40.44, 79.80),  # of Table 8: Table 9 has no baseline
        (40.85, 79.97),
        (40.79, 80.01),
        (41.06, 80.23),
        (41.55, 80.30),
        (42.01, 80.11),
        (41.93, 80.34),
        (42.23, 80.34),
        (41.93, 80.35),
        (43.05, 80.81),
    ],
}
# Whether CARAFE++ is in PPM, FPN, FUSE and backbone, for the rows of Table 9.
TABLE_9 = ["", "p", "f", "u", "pf", "pu", "fu", "pfu", "b", "pfub"]
BASELINE = 64_222_294
ADDED = {"p": 362_128, "f": 271_596, "u": 369_900, "b": 70_767}


@functools.cache
def parameters(config):
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    model, key = make_model(config), jax.random.key(0)
    shapes = jax.eval_shape(lambda key: model.lazy_init(key, image, method="layers"), key)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def rows(table):
    return EXPERIMENTS[table].presets


def test_every_row_of_the_paper_has_a_preset_with_the_papers_scores():
    for table, scores in PAPER.items():
        found = [(row.paper["mIoU"], row.paper["pixel_accuracy"]) for row in rows(table)]
        assert found == scores
        assert all(row.name.startswith(f"{table}-") for row in rows(table))
    assert {"mIoU", "pixel_accuracy"} <= {metric.name for metric in METRICS}
    assert len({preset.name for preset in PRESETS}) == len(PRESETS)
    for experiment in EXPERIMENTS.values():
        pairs = itertools.combinations([preset.config for preset in experiment.presets], 2)
        assert all(a != b for a, b in pairs)


@pytest.mark.slow
def test_the_steps_of_table_9_add_the_parameters_of_each_part():
    for row, parts in zip(rows("table9"), TABLE_9, strict=True):
        model = row.config.model
        places = {"p": model.ppm, "f": model.fpn, "u": model.fuse, "b": model.backbone.downsampler}
        assert "".join(part for part in "pfub" if places[part] == "carafe") == parts
        assert parameters(row.config) == BASELINE + sum(ADDED[part] for part in parts)
    assert preset_of(rows("table9")[0].config, PRESETS).name == "table8-upernet-resnet50"
    assert preset_of(rows("table9")[-1].config, PRESETS).name == "table8-upernet-resnet50-carafe"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        slow("table8-pspnet-resnet50", 49_180_908),
        ("table8-psanet-resnet50", 53_273_836),
        ("table8-upernet-resnet50", BASELINE),
        slow("table8-upernet-resnet50-carafe", BASELINE + 1_074_391),
        slow("table8-upernet-resnet101", BASELINE + 18_992_128),
        ("mmseg-upernet-resnet50", 66_516_108),
        slow("mmseg-upernet-resnet50-carafe-head", 66_516_108 + 1_003_624),
    ],
)
def test_parameters(name, expected):
    (preset,) = (each for each in PRESETS if each.name == name)
    assert parameters(preset.config) == expected


def test_the_rows_of_upernet_are_trained_as_section_5_1_says():
    for row in (*rows("table9"), *(row for row in rows("table8") if "upernet" in row.name)):
        config = row.config
        training, data = config.training, config.data
        assert config == dataclasses.replace(rows("table9")[0].config, model=config.model)
        assert config.model.norm == config.model.backbone.norm == "sync_batch"
        assert config.pretrained
        assert training.batch_size == 16
        assert dataclasses.astuple(training.optimizer) == dataclasses.astuple(
            dataclasses.replace(training.optimizer, name="sgd", learning_rate=0.02, momentum=0.9)
        )
        assert training.optimizer.weight_decay == 1e-4
        assert (data.source, data.augmentation, data.flip) == ("ade20k", "resize", True)
        assert data.shorter_sides == (300, 375, 450, 525, 600)
        assert (data.longer, data.test_shorter) == (1200, 450)
        # An epoch of the official implementation has 5,000 steps.
        _, rate = make_optimizer(config, steps_per_epoch=1263)
        found = [float(rate(step)) for step in (0, 50_000, 75_000, 100_000)]
        np.testing.assert_allclose(found, [0.02, 0.02 * 0.5**0.9, 0.02 * 0.25**0.9, 0], atol=1e-9)


def test_mmsegs_recipe():
    config = rows("mmseg")[0].config
    optimizer, loss, data = config.training.optimizer, config.loss, config.data
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.decay_all) == (
        0.01,
        5e-4,
        True,
    )
    assert (loss.resolution, loss.average, loss.auxiliary_weight) == ("labels", "all", 0.4)
    assert (data.augmentation, data.crop_side, data.crop_share, data.distort) == (
        "crop",
        512,
        0.75,
        True,
    )
    assert config.model.pooling_order == "convolution_first"
    _, rate = make_optimizer(config, steps_per_epoch=1)
    np.testing.assert_allclose([float(rate(0)), float(rate(80_000))], [0.01, 1e-4], rtol=1e-6)


def test_pspnet_and_psanet_are_trained_on_crops_of_their_own_sides():
    for row in rows("table8"):
        config = row.config
        if config.model.architecture == "upernet":
            continue
        side, reach = {"pspnet": (473, None), "psanet": (465, 59)}[config.model.architecture]
        assert (config.data.augmentation, config.data.crop_side) == ("crop", side)
        if reach is not None:  # the mask reaches every pair of pixels of a crop
            half = (-(-side // 8) - 1) // 2 + 1
            assert config.model.mask_side == reach == 2 * half - 1
        model, training = config.model, config.training
        assert model.backbone.output_stride == 8
        assert model.pooling_order == "convolution_first"
        assert (model.dropout, model.auxiliary) == (0.1, True)
        assert (config.loss.resolution, config.loss.average) == ("labels", "labelled")
        assert (training.batch_size, training.optimizer.learning_rate) == (16, 0.01)
        assert (training.schedule.length, training.schedule.unit) == (100, "epoch")


@pytest.mark.parametrize("table", ["table8", "table9", "mmseg"])
def test_the_backbone_of_every_row_is_a_preset_of_the_classification_task(tmp_path, table):
    known = {preset.name: preset.config.model for preset in CLASSIFIERS}
    for preset in rows(table):
        backbone = preset.config.model.backbone
        folder = backbone_folder(backbone, None, tmp_path)
        found = known[folder.name.removesuffix("-seed0")]
        assert found == dataclasses.replace(backbone, norm="batch", output_stride=32)


def test_a_config_survives_saving(tmp_path):
    for preset in PRESETS:
        configs.save(preset.config, tmp_path / "config.json")
        assert configs.load(SegmentationConfig, tmp_path / "config.json") == preset.config


EVERYTHING = rows("table8")[2].config
MODEL, DATA = EVERYTHING.model, EVERYTHING.data


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (MODEL, {"architecture": "fcn"}, "architecture.*upernet.*'fcn'"),
        (MODEL, {"fpn": "cubic"}, "fpn.*bilinear.*'cubic'"),
        (MODEL, {"architecture": "pspnet", "fuse": "carafe"}, "fuse.*bilinear.*'carafe'"),
        (MODEL, {"architecture": "psanet", "ppm": "carafe"}, "ppm.*bilinear.*'carafe'"),
        (MODEL, {"ppm": "fade"}, "ppm.*'sapa'.*'fade'"),
        (MODEL, {"fuse": "fade_lite"}, "fuse.*'sapa'.*'fade_lite'"),
        (
            MODEL,
            {"backbone": dataclasses.replace(MODEL.backbone, output_stride=8)},
            "output_stride.*32.*8",
        ),
        (MODEL, {"dropout": 1.0}, r"dropout.*1\.0"),
        (MODEL, {"channels": 0}, "channels.*1.*0"),
        (MODEL, {"auxiliary_channels": 0}, "auxiliary_channels.*1.*0"),
        (MODEL, {"norm": "frozen"}, "norm.*sync_batch.*'frozen'"),
        (DATA, {"shorter_sides": ()}, r"shorter_sides.*\(\)"),
        (DATA, {"shorter_sides": (600, 300)}, "shorter_sides.*ascending.*600, 300"),
        (DATA, {"longer": 500}, "longer.*600.*500"),
        (DATA, {"aspects": (0.5,)}, r"aspects.*0\.5"),
        (DATA, {"crop_scales": (2.0, 1.0)}, r"crop_scales.*2\.0, 1\.0"),
        (DATA, {"crop_share": 0.0}, r"crop_share.*0\.0"),
        (DATA.own, {"images": "a"}, "images, labels and class_list.*images"),
        (DATA.own, {"images": ""}, "images must be a path, got ''"),
        (DATA.own, {"unlabelled": 0}, "unlabelled.*255.*got 0"),
        (EVERYTHING.loss, {"auxiliary_weight": -1.0}, r"auxiliary_weight.*-1\.0"),
        *(
            (
                rows("table8")[2].config,
                {"data": dataclasses.replace(DATA, **{name: value})},
                message,
            )
            for name, value, message in (
                ("test_shorter", 31, "test_shorter.*32.*31"),
                ("crop_side", 31, "crop_side.*32.*31"),
                ("shorter_sides", (31, 64), r"shorter_sides.*32.*\(31, 64\)"),
            )
        ),
        (
            EVERYTHING,
            {"pretrained": False, "backbone_from": "x"},
            "backbone_from.*None.*'x'",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_impossible_config_is_refused(part, changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(part, **changes)
