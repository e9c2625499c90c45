"""No network uses XLA's 1x1 convolution on a CPU, because its gradient is slow."""

import re

import jax
import jax.numpy as jnp
import pytest

from experiments.detection.model.config import DetectorConfig
from experiments.detection.model.detector import Detector
from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.inpainting.model.generators import build_generator
from experiments.models.fpn_config import FPNConfig
from experiments.models.mobilenet import MobileNetV2
from experiments.models.resnet import ResNet
from experiments.models.resnet_config import ResNetConfig
from experiments.segmentation.model.config import SegmenterConfig
from experiments.segmentation.model.segmenter import Segmenter
from tests.slow import slow


def kernels_of_convolutions(module, *inputs):
    """Returns the kernel sizes of all convolutions in the program for a CPU, without products."""
    variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    text = jax.jit(module.apply).lower(variables, *inputs).as_text()
    calls = re.findall(r"stablehlo\.convolution\(.*?: \(tensor<\S+>, tensor<(\d+)x(\d+)x", text)
    assert len(calls) == text.count("stablehlo.convolution(")
    return calls


def maps(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.mark.parametrize("downsampler", ["strided", "carafe", "lip"])
def test_classifiers(downsampler):
    model = ResNet(ResNetConfig(50, downsampler), 10)
    kernels = kernels_of_convolutions(model, maps(1, 64, 64, 3))
    assert len(kernels) >= 17  # the stem, and one in each block
    assert ("1", "1") not in kernels


def test_frozen_backbones():
    kernels = kernels_of_convolutions(MobileNetV2(), maps(1, 64, 64, 3))
    assert len(kernels) == 1 + 17  # the stem, and one in each block
    assert ("1", "1") not in kernels


@pytest.mark.slow
def test_deformable_classifiers():
    model = ResNet(ResNetConfig(50, deformable_stages=(False, True, True, True)), 10)
    kernels = kernels_of_convolutions(model, maps(1, 64, 64, 3))
    # The stem, three plain convolutions, and the predictors of offsets.
    assert len(kernels) >= 1 + 3 + 13
    assert ("1", "1") not in kernels


@pytest.mark.parametrize("upsampler", [slow("nearest"), slow("deconvolution"), "carafe"])
def test_detectors(upsampler):
    config = DetectorConfig(
        backbone=ResNetConfig(50, norm="frozen"), neck=FPNConfig(upsampler=upsampler), masks=True
    )
    kernels = kernels_of_convolutions(
        Detector(config, 10), maps(1, 64, 64, 3), jax.ShapeDtypeStruct((1, 2), jnp.int32)
    )
    # The backbone, the pyramid's outputs, the RPN and the mask head.
    assert len(kernels) >= 17 + 4 + 1 + 4
    assert ("1", "1") not in kernels


@pytest.mark.parametrize("architecture", ["upernet", "pspnet", "psanet"])
def test_segmenters(architecture):
    stride = 32 if architecture == "upernet" else 8
    backbone = ResNetConfig(50, output_stride=stride, stem="deep")
    model = Segmenter(SegmenterConfig(architecture, backbone, norm="batch"), 10)
    kernels = kernels_of_convolutions(model, maps(1, 64, 64, 3))
    # The stem, one in each block of the backbone, and the last 3x3 convolution of the head.
    assert len(kernels) >= 3 + 16 + 1
    assert ("1", "1") not in kernels


@pytest.mark.parametrize("convolution", ["plain", "partial"])
def test_generators(convolution):
    config = GeneratorConfig(convolution=convolution, downsampler="carafe", upsampler="carafe")
    module = build_generator(config, jnp.float32, None)
    kernels = kernels_of_convolutions(module, maps(1, 64, 64, 3), maps(1, 64, 64, 1))
    assert len(kernels) >= 10
    assert ("1", "1") not in kernels
