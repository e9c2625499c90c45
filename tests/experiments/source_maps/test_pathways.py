import jax
import jax.numpy as jnp
import numpy as np
import pytest

from carafe_jax.linen import collect_reassemblies
from experiments.models.fpn import FPN
from experiments.models.fpn_config import FPNConfig
from experiments.models.resnet import ResNet
from experiments.models.resnet_config import ResNetConfig
from experiments.source_maps.pathways import (
    bottom_up,
    fixed_bottom_up,
    fixed_top_down,
    map_size,
    sources,
    top_down,
)

# C2 to C5 of an image of 72x104 pixels: odd sizes, which the pyramid crops.
LEVELS = [(18, 26), (9, 13), (5, 7), (3, 4)]


def pyramid(upsampler):
    model = FPN(FPNConfig(upsampler=upsampler, channels=2))
    maps = tuple(jnp.ones((1, *size, 2)) for size in LEVELS)
    variables = model.init(jax.random.key(0), maps)
    return collect_reassemblies(model, variables, maps)[1]


def test_the_top_down_pathway_of_a_pyramid():
    pathway = top_down(pyramid("carafe"), LEVELS, at="").of_image(0)
    assert [step.name for step in pathway.steps] == ["upsample_5", "upsample_4", "upsample_3"]
    assert (pathway.name, pathway.source_stride, pathway.target_stride) == ("P5 to P2", 32, 4)
    assert (pathway.source_size, pathway.target_size) == ((3, 4), (18, 26))
    assert sources(pathway, [(17, 25)]).shape == (1, 3, 4)
    shorter = pathway.first_steps(2)
    assert (shorter.target_stride, shorter.target_size) == (8, (9, 13))


def test_a_pyramid_without_carafe_has_fixed_pathways():
    assert top_down(pyramid("nearest"), LEVELS, at="") is None
    pathway = fixed_top_down(LEVELS, "nearest")
    assert [step.size for step in pathway.steps] == [(3, 4), (5, 7), (9, 13)]
    assert (pathway.source_stride, pathway.target_stride) == (32, 4)
    assert (pathway.source_size, pathway.target_size) == ((3, 4), (18, 26))
    (weights,) = sources(pathway, [(17, 7)])
    np.testing.assert_array_equal(np.argwhere(weights), [(2, 0)])


def test_the_bottom_up_pathway_of_a_resnet_has_four_steps():
    model = ResNet(ResNetConfig(18, downsampler="carafe", width=2), num_classes=None)
    image = jnp.ones((1, 72, 104, 3))
    variables = jax.jit(lambda: model.init(jax.random.key(0), image, method="features"))()
    collect = jax.jit(lambda: collect_reassemblies(model, variables, image, method="features")[1])
    pathway = bottom_up(collect(), at="").of_image(0)
    fixed = fixed_bottom_up((36, 52), "avg_pool")
    for found in (pathway, fixed, pathway.with_kernels(lambda size: fixed.steps[0])):
        assert len(found.steps) == 4
        assert (found.source_stride, found.target_stride) == (2, 32)
        assert (found.source_size, found.target_size) == ((36, 52), (3, 4))
        assert found.name.endswith("to C5")
    assert bottom_up(()) is None


def test_sizes_are_rounded_up():
    assert [map_size((72, 104), 2**level) for level in (2, 3, 4, 5)] == LEVELS


@pytest.mark.parametrize("method", ["strided", "avg_pool", "box"])
def test_fixed_downsampling_by_hand(method):
    (weights,) = sources(fixed_bottom_up((32, 32), method, steps=2), [(4, 4)])
    expected = {"strided": 1, "avg_pool": 4 * 4, "box": 13 * 13}[method]
    assert np.count_nonzero(weights) == expected
