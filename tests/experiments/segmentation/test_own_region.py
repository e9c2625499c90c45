import dataclasses

import numpy as np
import pytest
from PIL import Image

from experiments.data.classes import UNLABELLED
from experiments.data.errors import DataError
from experiments.engine.config import ConfigError
from experiments.engine.folders import DataFolders
from experiments.engine.runs import LoadedRun
from experiments.models.resnet_config import ResNetConfig
from experiments.segmentation import own_region
from experiments.segmentation.configs import SegmentationConfig
from experiments.segmentation.data.config import DataConfig
from experiments.segmentation.model.config import SegmenterConfig
from experiments.segmentation.own_region import check_has_carafe, measure, measure_run
from experiments.segmentation.pathways import Observed
from experiments.source_maps.pathways import fixed_top_down
from tests.experiments.source_maps.fixed_pathways import fixed_bottom_up

LEVELS = [(16, 24), (8, 12), (4, 6), (2, 3)]
DATA = DataConfig(test_shorter=64, shorter_sides=(64,), longer=200)


def config(fpn="carafe", downsampler="carafe"):
    model = SegmenterConfig(backbone=ResNetConfig(50, downsampler), fpn=fpn)
    return dataclasses.replace(SegmentationConfig(), model=model, data=DATA)


def observed(pixels):
    assert pixels.shape == (1, 64, 96, 3)
    return Observed(fixed_top_down(LEVELS, "box"), fixed_bottom_up((32, 48), "box"))


def halves():
    """An image of two classes, the border of which is between pixels of P5, and one of none."""
    label = np.zeros((128, 192), np.uint8)
    label[:, 64:] = 7
    image = Image.new("RGB", (192, 128))
    return [(image, label), (image, np.full_like(label, UNLABELLED))]


def test_regions_of_classes_are_measured_from_each_level():
    found = measure(config(), observed, halves())
    assert list(found) == ["P5 to P2", "P4 to P2", "P3 to P2", "C1 to C5"]
    means = found["P5 to P2"]
    assert list(means) == ["CARAFE++", "nearest", "bilinear", "box"]
    assert means["CARAFE++"] == means["box"]
    assert (means["nearest"].all.objects, means["nearest"].all.targets) == (2, 16 * 24)
    assert means["nearest"].all.mean == pytest.approx(1)
    assert 0.3 < means["box"].all.mean < means["bilinear"].all.mean < 1


def test_unlabelled_pixels_belong_to_no_region():
    (image, label), _ = halves()
    label[:, :64] = UNLABELLED
    found = measure(config(), observed, [(image, label)])
    means = found["P5 to P2"]["nearest"].all
    assert (means.objects, means.targets) == (1, 16 * 16)


def test_pathways_without_carafe_are_left_out():
    found = measure(
        config(downsampler="strided"), lambda x: observed(x)._replace(down=None), halves()
    )
    assert list(found) == ["P5 to P2", "P4 to P2", "P3 to P2"]
    assert list(measure(config("bilinear"), observed, halves())) == ["C1 to C5"]


def test_bad_arguments_are_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"got upernet with 'bilinear' and 'strided' in .*run"):
        check_has_carafe(config("bilinear", "strided"), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"images .*1.* 0"):
        measure_run(tmp_path, tmp_path, "validation", 0, DataFolders(tmp_path))


def test_a_dataset_without_labelled_pixels_is_named(monkeypatch, tmp_path):
    class Data:
        folder = tmp_path / "data"

        def source(self, split):
            return []

    class Runs:
        def load_config(self, folder):
            return config()

        def load(self, folder, checkpoint):
            return LoadedRun(config(), {"params": {}, "model_state": {}}, 7)

    monkeypatch.setattr(own_region, "RUNS", Runs())
    monkeypatch.setattr(own_region, "open_data", lambda config, folders: Data())
    monkeypatch.setattr(own_region, "spread_examples", lambda source, count: [])
    with pytest.raises(DataError, match=r"/data must have labelled pixels in validation"):
        measure_run(tmp_path / "run", tmp_path, "validation", 1, DataFolders(tmp_path))
