"""The networks of the lists of keys, and detectors of a few channels."""

import dataclasses
import functools

import jax
import numpy as np
from safetensors.numpy import save_file

from experiments.detection.configs import DetectionConfig
from experiments.detection.conversion.layouts import layout
from experiments.detection.data.config import DataConfig
from experiments.detection.model.config import BoxHeadConfig, DetectorConfig, MaskHeadConfig
from experiments.detection.task import initial_variables
from experiments.models.fpn_config import FPNConfig
from experiments.models.resnet_config import ResNetConfig
from experiments.resamplers.carafe_config import CarafeConfig

CARAFE = FPNConfig("fpn_carafe", "carafe")


C3_TO_C5 = (False, True, True, True)


def detector(*, masks=False, neck=None, mask="deconvolution", depth=50, deformable=False):
    stages = C3_TO_C5 if deformable else (False,) * 4
    return DetectorConfig(
        backbone=ResNetConfig(depth, norm="frozen", deformable_stages=stages),
        neck=neck or FPNConfig(),
        masks=masks,
        mask=MaskHeadConfig(upsampler=mask),
    )


# The config of the network, its library, and the version of the names, by the name of the list.
LISTS = {
    "torchvision_faster": (detector(), "torchvision", "new"),
    "torchvision_mask": (detector(masks=True), "torchvision", "new"),
    "torchvision_faster_old": (detector(), "torchvision", "old"),
    "torchvision_mask_old": (detector(masks=True), "torchvision", "old"),
    "mmdet_faster": (detector(), "mmdet", "new"),
    "mmdet_mask": (detector(masks=True), "mmdet", "new"),
    "mmdet_faster_carafe": (detector(neck=CARAFE), "mmdet", "new"),
    "mmdet_mask_carafe": (detector(masks=True, neck=CARAFE, mask="carafe"), "mmdet", "new"),
    "mmdet_faster_dcn": (detector(deformable=True), "mmdet", "new"),
    "detectron2_faster_dcn": (detector(deformable=True), "detectron2", "new"),
    "detectron2_faster_r50": (detector(), "detectron2", "new"),
    "detectron2_mask_r50": (detector(masks=True), "detectron2", "new"),
    "detectron2_faster_r101": (detector(depth=101), "detectron2", "new"),
    "detectron2_mask_r101": (detector(masks=True, depth=101), "detectron2", "new"),
}


def shapes(model):
    """The shapes of a detector's variables."""
    if model.masks:
        return _traced(model)
    # Networks that differ in the mask head only are traced once.
    upsampler = "carafe" if model.neck == CARAFE else "deconvolution"
    mask = dataclasses.replace(model.mask, upsampler=upsampler)
    found = _traced(dataclasses.replace(model, masks=True, mask=mask))
    params = {name: each for name, each in found["params"].items() if name != "mask_head"}
    return {**found, "params": params}


@functools.cache
def _traced(model):
    config = DetectionConfig(model=model, data=DataConfig(mask_side=56))
    return jax.eval_shape(lambda: initial_variables(config))


def narrow(model, depth=18):
    """A detector of a few channels and layers, with the kinds of layers of ``model``."""

    def sizes(upsampler):
        return CarafeConfig(3 if upsampler == "carafe" else 64)

    return dataclasses.replace(
        model,
        backbone=dataclasses.replace(model.backbone, width=2, depth=depth),
        neck=dataclasses.replace(model.neck, channels=4, carafe=sizes(model.neck.upsampler)),
        box=BoxHeadConfig(features=8),
        mask=dataclasses.replace(
            model.mask, features=4, carafe=sizes(model.mask.upsampler), layers=2
        ),
    )


def random_file(path, model, library, names="new", extra=(), deviation=1.0):
    """Writes a file of random arrays for a detector, and ``extra`` arrays; returns all arrays."""
    rng = np.random.default_rng(0)
    arrays = {
        name: deviation * np.abs(rng.standard_normal(shape, np.float32))
        for name, shape in file_shapes(model, library, names).items()
    }
    arrays |= extra
    save_file(arrays, path)
    return arrays


def assert_same(found, expected):
    """Compares the arrays of two files bit for bit."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(found[name], array, name)


def file_shapes(model, library, names="new"):
    """The shapes of the arrays in a file of a library, by name."""
    sources = layout(library, model, names).sources(shapes(model))
    leaves = jax.tree.leaves(shapes(model))
    zero = np.zeros((), np.int8)
    return {
        source.name: source.arrangement.to_file(np.broadcast_to(zero, leaf.shape)).shape
        for source, leaf in zip(sources.values(), leaves, strict=True)
    }
