import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from carafe_jax.linen import CARAFE
from experiments.engine.tables.cost import Cost, cost
from experiments.models.deformable_convolution import ModulatedDeformableConv
from experiments.models.resnet import ResNet
from experiments.models.resnet_config import ResNetConfig
from experiments.resamplers.convolutions import Deconvolution
from experiments.resamplers.dpp import DetailPreservingPool
from experiments.resamplers.lip import ImportanceHead, ImportanceTrunk, SimplifiedLIP
from experiments.resamplers.pooling import avg_pool, max_pool

BATCH, HEIGHT, WIDTH, CHANNELS, FEATURES = 2, 5, 6, 16, 7
PIXELS, HALVED = BATCH * 5 * 6, BATCH * 3 * 3
MAP = jax.ShapeDtypeStruct((BATCH, HEIGHT, WIDTH, CHANNELS), jnp.float32)


def softmax_flops(channels):
    """Maximum, which starts at minus infinity; difference, exponential, sum and quotient."""
    return 1 + 5 * channels


class Call(nn.Module):
    """A function as a module."""

    function: object

    def __call__(self, *inputs, **options):
        return self.function(*inputs, **options)


def test_resnet_50_has_4_1_billion_multiply_adds():
    # torchvision's documentation of the model says 4.09 G for 224x224 pixels.
    found = cost(ResNet(ResNetConfig(50), 1000), jax.ShapeDtypeStruct((1, 224, 224, 3), "float32"))
    assert found.parameters == 25_557_032
    assert found.flops == pytest.approx(2 * 4.09e9, rel=0.01)


@pytest.mark.parametrize(("groups", "parts"), [(1, 1), (4, 2)])
def test_every_tap_of_a_deformable_convolution_counts(groups, parts):
    # The taps are computed in a loop, inside of a loop over blocks of outputs.
    size, channels, features, taps = (1, 64, 64), 16, 8, 9
    found = cost(
        ModulatedDeformableConv(features, groups=groups, deformable_groups=parts),
        jax.ShapeDtypeStruct((*size, channels), jnp.float32),
    )
    predicted = 3 * taps * parts
    assert found.parameters == (
        taps * channels // groups * features + (taps * channels + 1) * predicted
    )
    prediction = (2 * taps * channels + 1) * predicted
    bilinear, sample = 4 + 3, 15  # the second for position, weights, and sigmoid of a sample
    products = 2 * channels // groups * features
    tap = products + bilinear * channels + features + sample * parts
    assert found.flops == 64 * 64 * (prediction + taps * tap)


@pytest.mark.parametrize(
    ("module", "parameters", "flops"),
    [
        (nn.Dense(FEATURES), 17 * FEATURES, PIXELS * FEATURES * (2 * 16 + 1)),
        (nn.Conv(FEATURES, (3, 3)), 9 * 16 * 7 + 7, PIXELS * FEATURES * (2 * 9 * 16 + 1)),
        (
            nn.Conv(32, (3, 3), strides=2, padding=1, feature_group_count=4, use_bias=False),
            9 * 4 * 32,
            HALVED * 32 * 2 * 9 * 4,
        ),
        (Call(nn.relu), 0, PIXELS * CHANNELS),
        (Call(nn.softmax), 0, PIXELS * softmax_flops(CHANNELS)),
        (Call(max_pool), 0, HALVED * CHANNELS * 9),
        (Call(avg_pool), 0, HALVED * CHANNELS * 5),
    ],
)
def test_known_layers(module, parameters, flops):
    assert cost(module, MAP) == Cost(parameters, flops)


def test_detail_preserving_pooling():
    flops = CHANNELS * (7 * PIXELS + 19 * HALVED + 2)
    assert cost(DetailPreservingPool(), MAP) == Cost(2 * CHANNELS, flops)


# For each pixel and channel: an instance norm (two means, a square, two differences, scale, bias),
# a gate, an exponential and a product; for each image and channel, the factor from the variance.
LOGITS = 7 + 2 + 1 + 1
NORM_OF_IMAGE = BATCH * CHANNELS * 5


def importance_pool(logits_flops):
    pool = 2 * HALVED * CHANNELS * 9 + HALVED * CHANNELS
    return logits_flops + PIXELS * CHANNELS * LOGITS + NORM_OF_IMAGE + pool


def test_simplified_local_importance_pooling():
    convolution = PIXELS * 2 * 9 * CHANNELS**2
    expected = Cost(9 * CHANNELS**2 + 2 * CHANNELS, importance_pool(convolution))
    assert cost(SimplifiedLIP(), MAP) == expected


def test_local_importance_pooling_of_bottlenecks():
    trunk = jax.ShapeDtypeStruct((BATCH, HEIGHT, WIDTH, 128), jnp.float32)
    expected = Cost(130 * CHANNELS, importance_pool(PIXELS * 2 * 128 * CHANNELS))
    assert cost(ImportanceHead(), MAP, trunk) == expected
    found = cost(ImportanceTrunk(), MAP)
    kernels = 128 * CHANNELS + 9 * 128**2
    assert found.parameters == kernels + 4 * 128
    norm_and_relu = 2 * (PIXELS * 128 * (7 + 1) + BATCH * 128 * 5)
    assert found.flops == PIXELS * 2 * kernels + norm_and_relu


@pytest.mark.parametrize(
    ("scale", "compressed", "places", "outputs", "kernels"),
    [({"down": 2}, 16, HALVED, HALVED, 1), ({"up": 2}, 64, PIXELS, 4 * PIXELS, 4)],
)
def test_carafe(scale, compressed, places, outputs, kernels):
    logits = 25 * kernels
    compressor = (CHANNELS + 1) * compressed
    encoder = (9 * compressed + 1) * logits
    predictor = PIXELS * (2 * CHANNELS + 1) * compressed
    predictor += places * (2 * 9 * compressed + 1) * logits
    softmax = outputs * softmax_flops(25)
    reassembly = outputs * CHANNELS * (2 * 25 - 1)
    expected = Cost(compressor + encoder, predictor + softmax + reassembly)
    assert cost(CARAFE(**scale), MAP) == expected


@pytest.mark.parametrize("size", [2, 4])
def test_a_deconvolution_multiplies_no_zeros(size):
    taps = size**2 * CHANNELS * FEATURES
    expected = Cost(taps + FEATURES, PIXELS * 2 * taps + 4 * PIXELS * FEATURES)
    assert cost(Deconvolution(FEATURES, size), MAP) == expected


def test_calls_loops_and_branches_are_counted():
    x = jax.ShapeDtypeStruct((3,), jnp.float32)
    scanned = Call(lambda x: jax.lax.scan(lambda c, _: (jnp.exp(c), None), x, length=5)[0])
    assert cost(scanned, x).flops == 15
    branches = Call(lambda x: jax.lax.cond(True, lambda x: jnp.exp(x) + 1, jnp.exp, x))
    assert cost(branches, x).flops == 6
    compiled = Call(jax.checkpoint(jax.jit(jnp.exp)))
    assert cost(compiled, x).flops == 3
    assert cost(Call(lambda x: x.astype(jnp.int32) + 1), x).flops == 0


def test_programs_that_cannot_be_counted_are_refused():
    x = jax.ShapeDtypeStruct((3,), jnp.float32)
    loop = Call(lambda x: jax.lax.while_loop(lambda x: x[0] < 1, jnp.exp, x))
    with pytest.raises(NotImplementedError, match="got 'while'"):
        cost(loop, x)

    def kernel(source, target):
        target[...] = source[...]

    with pytest.raises(NotImplementedError, match="got 'pallas_call'"):
        cost(Call(pl.pallas_call(kernel, out_shape=x)), x)


def test_training_counts_the_statistics_of_the_batch():
    norm = cost(nn.BatchNorm(), MAP, use_running_average=True)
    assert norm.parameters == 2 * CHANNELS
    trained = cost(nn.BatchNorm(), MAP, use_running_average=False)
    assert trained.flops > norm.flops + 3 * PIXELS * CHANNELS  # two sums and a square


def test_a_method_is_counted_without_running_it():
    backbone = ResNet(ResNetConfig(152), None)
    pixels = jax.ShapeDtypeStruct((64, 4096, 4096, 3), jnp.float32)  # 12 GB
    found = cost(backbone, pixels, method="features")
    assert found.parameters == 60_192_808 - 2049 * 1000
