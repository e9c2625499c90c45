"""Networks and training steps promote no dtype.

Some layers of Flax and Adam of Optax do; they run with the promotions that they need.
"""

import contextlib
import dataclasses
from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.classification import task as classification
from experiments.detection import task as detection
from experiments.detection.model.heads import BoxHead, MaskHead
from experiments.detection.model.rpn import RPNHead
from experiments.engine.evaluation import weighted_sum
from experiments.engine.parallel import AXIS
from experiments.engine.step import first_carry, guarded
from experiments.inpainting import task as inpainting
from experiments.inpainting.adversarial import alternating_step
from experiments.inpainting.metrics import image_metrics
from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.inpainting.model.generators import build_generator
from experiments.inpainting.model.patchgan import PatchGAN
from experiments.inpainting.model.patchgan_config import PatchGANConfig
from experiments.models.fpn import FPN
from experiments.models.fpn_config import FPNConfig
from experiments.models.resnet import ResNet
from experiments.models.resnet_config import ResNetConfig
from experiments.resamplers.methods import Upsampler
from experiments.segmentation import task as segmentation
from experiments.segmentation.model.config import SegmenterConfig
from experiments.segmentation.model.segmenter import Segmenter
from tests.experiments.classification.tiny import TINY as CLASSIFIER
from tests.experiments.detection.tiny import TINY as DETECTOR
from tests.experiments.inpainting.tiny import TINY as INPAINTING
from tests.experiments.segmentation.tiny import TINY as SEGMENTER
from tests.slow import slow

PROMOTING_LAYERS = (nn.BatchNorm, nn.InstanceNorm, nn.LayerNorm, nn.SpectralNorm)
DTYPES = [slow("float32"), "bfloat16"]  # those of configs


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


@contextlib.contextmanager
def strict_promotion():
    """Refuses implicit promotions outside of Flax's norms."""

    def call(layer, arguments, options, context):
        promotes = isinstance(context.module, PROMOTING_LAYERS)
        with jax.numpy_dtype_promotion("standard" if promotes else "strict"):
            return layer(*arguments, **options)

    with nn.intercept_methods(call), jax.numpy_dtype_promotion("strict"):
        yield


def check_gradients(network, *inputs, rngs=None, **options):
    """Traces the gradients of a network by all its parameters."""
    keys = {"params": jax.random.key(0)} | (rngs or {})
    shapes = jax.eval_shape(lambda: network.lazy_init(keys, *inputs, **options))

    def loss(params, rest, inputs):
        found, _ = network.apply(
            {"params": params, **rest}, *inputs, mutable=["batch_stats"], rngs=rngs, **options
        )
        return sum(y.astype(jnp.float32).sum() for y in jax.tree.leaves(found))

    rest = dict(shapes)
    params = rest.pop("params")
    with strict_promotion():
        gradients = jax.eval_shape(jax.grad(loss), params, rest, inputs)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "config",
    [
        ResNetConfig(18, "avg_pool", width=2),
        slow(ResNetConfig(18, "dpp", width=2)),
        slow(ResNetConfig(18, "carafe", width=2)),
        slow(ResNetConfig(18, "strided", norm="frozen", width=2)),
        slow(ResNetConfig(50, "lip", width=2)),
        slow(ResNetConfig(50, width=2, deformable_stages=(False, True, True, True))),
    ],
    ids=lambda config: f"{config.depth}-{config.downsampler}-{config.norm}",
)
def test_classifiers(config, dtype):
    network = ResNet(config, 3, dtype=jnp.dtype(dtype))
    check_gradients(network, array(1, 32, 32, 3), train=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "upsampler", ["bilinear", *[slow(name) for name in get_args(Upsampler) if name != "bilinear"]]
)
def test_pyramids(upsampler, dtype):
    maps = tuple(array(1, side, side, 4) for side in (8, 4, 2))
    check_gradients(FPN(FPNConfig("fpn_carafe", upsampler, 4), jnp.dtype(dtype)), maps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "config",
    [
        GeneratorConfig(width=2, levels=1),
        GeneratorConfig(convolution="partial", upsampler="nearest", width=2, levels=1),
        slow(GeneratorConfig("global_local", "partial", "carafe", "carafe", 2, 1)),
        slow(GeneratorConfig("unet", "plain", "lip", "bilinear", 2, 2)),
        slow(GeneratorConfig("unet", "partial", "carafe", "carafe", 2, 2)),
    ],
    ids=lambda config: f"{config.architecture}-{config.convolution}-{config.upsampler}",
)
def test_generators(config, dtype):
    network = build_generator(config, jnp.dtype(dtype), None)
    check_gradients(network, array(1, 8, 8, 3), array(1, 8, 8, 1), train=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("architecture", "fields"),
    [
        ("upernet", {}),
        slow("upernet", {"ppm": "carafe", "fpn": "carafe", "fuse": "carafe"}),
        slow("upernet", {"ppm": "guided", "fpn": "pixel_shuffle", "fuse": "spatial_attention"}),
        slow("pspnet", {"pooling_order": "convolution_first"}),
        ("psanet", {"mask_side": 5}),
    ],
)
def test_segmenters(architecture, fields, dtype):
    stride = 32 if architecture == "upernet" else 8
    backbone = ResNetConfig(18, output_stride=stride, width=2, stem="deep")
    config = SegmenterConfig(
        architecture, backbone, 4, dropout=0.1, auxiliary=True, norm="batch", **fields
    )
    network = Segmenter(config, 3, jnp.dtype(dtype))
    rngs = {"dropout": jax.random.key(0)}
    check_gradients(network, array(1, 33, 48, 3), train=True, method="layers", rngs=rngs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spectral", [False, True])
def test_discriminators(spectral, dtype):
    network = PatchGAN(PatchGANConfig(2, 1, spectral=spectral), jnp.dtype(dtype))
    check_gradients(network, array(1, 8, 8, 4), update=True)


def check_step(step, state, **batch):
    """Traces the guarded step of a task on all devices."""
    devices = jax.local_device_count()
    batch = {name: array(devices, *value.shape, dtype=value.dtype) for name, value in batch.items()}
    carry = jax.eval_shape(lambda: first_carry(state(), 0))
    mapped = jax.pmap(guarded(step, 1), axis_name=AXIS, in_axes=(None, 0), out_axes=None)
    with strict_promotion():
        after, _ = jax.eval_shape(mapped, carry, batch)
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(carry)]
    assert [leaf.dtype for leaf in jax.tree.leaves(after)] == dtypes


def config_of(config, accumulation=1, **changes):
    """A config with SGD: Adam of Optax divides by a number of another dtype."""
    optimizer = dataclasses.replace(config.training.optimizer, name="sgd", weight_decay=1e-4)
    training = dataclasses.replace(config.training, optimizer=optimizer, accumulation=accumulation)
    return dataclasses.replace(config, training=training, **changes)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_step_of_classification(dtype):
    model = ResNetConfig(18, "avg_pool", norm="sync_batch", width=2)
    config = config_of(CLASSIFIER, 2, model=model, dtype=dtype)
    check_step(
        classification.train_step(config, 10),
        lambda: classification.initial_state(config),
        image=array(2, 32, 32, 3, dtype=jnp.uint8),
        label=array(2, dtype=jnp.int32),
        unreadable=array(2, dtype=jnp.int32),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_step_of_detection(dtype):
    config = config_of(DETECTOR, dtype=dtype)
    check_step(
        detection.train_step(config, 10),
        lambda: detection.initial_state(config),
        image=array(1, 64, 64, 3, dtype=jnp.uint8),
        size=array(1, 2, dtype=jnp.int32),
        boxes=array(1, 2, 4),
        labels=array(1, 2, dtype=jnp.int32),
        crowd=array(1, 2, dtype=jnp.bool_),
        masks=array(1, 2, 14, 14, dtype=jnp.uint8),
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("resolution", ["logits", "labels"])
def test_the_step_of_segmentation(dtype, resolution):
    config = config_of(
        SEGMENTER, 2, dtype=dtype, loss=dataclasses.replace(SEGMENTER.loss, resolution=resolution)
    )
    check_step(
        segmentation.train_step(config, 10),
        lambda: segmentation.initial_state(config),
        image=array(2, 64, 64, 3, dtype=jnp.uint8),
        size=array(2, 2, dtype=jnp.int32),
        label=array(2, 64, 64, dtype=jnp.uint8),
        unreadable=array(2, dtype=jnp.int32),
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_detections(dtype):
    config = config_of(DETECTOR, dtype=dtype)
    state = jax.eval_shape(lambda: detection.initial_state(config))
    model = detection.make_model(config)
    with strict_promotion():
        found = jax.eval_shape(
            lambda state, *inputs: detection.detect(model, state, *inputs),
            state,
            array(1, 64, 64, 3, dtype=jnp.uint8),
            array(1, 2, dtype=jnp.int32),
        )
    assert found["masks"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("dtype", "loss"), [slow("float32", "least_squares"), ("bfloat16", "hinge")]
)
def test_the_step_of_inpainting(dtype, loss):
    config = config_of(
        INPAINTING,
        dtype=dtype,
        model=GeneratorConfig(upsampler="nearest", width=2, levels=1),
        adversarial=dataclasses.replace(INPAINTING.adversarial, loss=loss),
    )
    check_step(
        alternating_step(config, *inpainting.make_optimizer(config.training)),
        lambda: inpainting.initial_state(config),
        image=array(2, 16, 16, 3, dtype=jnp.uint8),
        mask=array(2, 16, 16, 1, dtype=jnp.bool_),
    )


def test_metrics():
    image, mask = array(2, 16, 16, 3), array(2, 16, 16, 1)
    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(image_metrics, image, image, mask)
        for values in (array(2), array(2, dtype=jnp.bool_), array(2, dtype=jnp.int32)):
            assert jax.eval_shape(weighted_sum, values, array(2)).dtype == jnp.float32


@pytest.mark.parametrize(
    ("module", "inputs", "message"),
    [
        (PatchGAN(PatchGANConfig(2, 1)), [array(8, 8, 4)], r"x must be \[B, H, W, C\]"),
        (PatchGAN(PatchGANConfig(2, 1)), [array(1, 2, 8, 8, 4)], r"x must be \[B, H, W, C\]"),
        (
            Segmenter(SegmenterConfig(norm="batch"), 3, axis_name="devices"),
            [array(8, 8, 3)],
            r"x must be \[B, H, W, C\]",
        ),
        (RPNHead(3), [[array(8, 8, 4)]], r"pyramid must be \[B, H, W, C\]"),
        (RPNHead(3), [[array(1, 2, 8, 8, 4)]], r"pyramid must be \[B, H, W, C\]"),
        (BoxHead(DETECTOR.model.box, 3), [array(2, 7, 7, 4)], r"x must be \[B, R, S, S, C\]"),
        (MaskHead(DETECTOR.model.mask, 3), [array(2, 7, 7, 4)], r"x must be \[B, R, S, S, C\]"),
        (
            build_generator(GeneratorConfig(width=2, levels=1), jnp.float32, None),
            [array(8, 8, 3), array(8, 8, 1)],
            r"image must be \[B, H, W, C\]",
        ),
        (
            build_generator(GeneratorConfig(width=2, levels=1), jnp.float32, None),
            [array(2, 8, 8, 3), array(1, 8, 8, 1)],
            r"mask must be \[B, H, W, 1\]",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_networks_name_an_input_of_another_rank(module, inputs, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda *inputs: module.init(jax.random.key(0), *inputs), *inputs)


def test_a_classifier_takes_one_image():
    network = ResNet(ResNetConfig(18, width=1), 3)
    image = np.ones((2, 32, 64, 3), np.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    assert jax.eval_shape(network.apply, variables, image[0]).shape == (3,)
