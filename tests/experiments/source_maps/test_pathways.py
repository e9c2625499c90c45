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
    UPSAMPLERS,
    bottom_up,
    compared,
    fixed_top_down,
    from_each_level,
    map_size,
    sources,
    top_down,
)
from tests.experiments.source_maps.fixed_pathways import fixed_bottom_up

# C2 to C5 of an image of 72x104 pixels: odd sizes, which the pyramid crops.
LEVELS = [(18, 26), (9, 13), (5, 7), (3, 4)]


def pyramid(upsampler):
    """The top-down pathway of a pyramid for a batch of two, with shapes instead of arrays."""

    def trace():
        model = FPN(FPNConfig(upsampler=upsampler, channels=2))
        maps = tuple(jnp.ones((2, *size, 2)) for size in LEVELS)
        variables = model.init(jax.random.key(0), maps)
        return top_down(collect_reassemblies(model, variables, maps)[1], LEVELS, at="")

    return jax.eval_shape(trace)


def test_the_top_down_pathway_of_a_pyramid():
    pathway = pyramid("carafe")
    assert [step.name for step in pathway.steps] == ["upsample_5", "upsample_4", "upsample_3"]
    assert [step.kernels.shape[:3] for step in pathway.steps] == [
        (2, 6, 8),
        (2, 10, 14),
        (2, 18, 26),
    ]
    assert (pathway.name, pathway.source_stride, pathway.target_stride) == ("P5 to P2", 32, 4)
    assert (pathway.source_size, pathway.target_size) == ((3, 4), (18, 26))
    first = pathway.first_steps(2)
    assert (first.source_stride, first.target_stride, first.target_size) == (32, 8, (9, 13))
    last = pathway.last_steps(2, "P4 to P2")
    assert (last.source_stride, last.target_stride, last.source_size) == (16, 4, (5, 7))
    assert (last.name, last.target_size) == ("P4 to P2", (18, 26))
    names = [each.name for each in from_each_level(pathway)]
    assert names == ["P5 to P2", "P4 to P2", "P3 to P2"]


def test_a_pyramid_without_carafe_has_fixed_pathways():
    assert pyramid("nearest") is None
    pathway = fixed_top_down(LEVELS, "nearest")
    assert [step.size for step in pathway.steps] == [(3, 4), (5, 7), (9, 13)]
    assert (pathway.source_stride, pathway.target_stride) == (32, 4)
    assert (pathway.source_size, pathway.target_size) == ((3, 4), (18, 26))
    (weights,) = sources(pathway, [(17, 7)])
    np.testing.assert_array_equal(np.argwhere(weights), [(2, 0)])


def test_a_pathway_of_an_image_of_a_batch():
    pathway = fixed_top_down(LEVELS, "nearest")
    batch = jax.tree.map(lambda kernels: np.stack([kernels, 2 * kernels]), pathway)
    np.testing.assert_array_equal(batch.of_image(1).steps[2].kernels, 2 * pathway.steps[2].kernels)


def test_the_bottom_up_pathway_of_a_resnet_has_four_steps():
    def trace():
        model = ResNet(ResNetConfig(18, downsampler="carafe", width=2), num_classes=None)
        image = jnp.ones((1, 72, 104, 3))
        variables = model.init(jax.random.key(0), image, method="features")
        found = collect_reassemblies(model, variables, image, method="features")[1]
        return bottom_up(found, at="")

    pathway = jax.eval_shape(trace)
    assert [step.name for step in pathway.steps] == [
        "pool",
        "layer2_0/resample",
        "layer3_0/resample",
        "layer4_0/resample",
    ]
    for found in (pathway, fixed_bottom_up((36, 52), "avg_pool")):
        assert len(found.steps) == 4
        assert (found.source_stride, found.target_stride) == (2, 32)
        assert (found.source_size, found.target_size) == ((36, 52), (3, 4))
        assert found.name == "C1 to C5"
    assert bottom_up(()) is None


def test_fixed_kernels_replace_the_kernels_of_a_network():
    pathway = fixed_top_down(LEVELS, "box")
    methods = compared(pathway, UPSAMPLERS)
    assert [*methods] == ["CARAFE++", "nearest", "bilinear", "box"]
    assert methods["CARAFE++"] is pathway
    assert [step.name for step in methods["bilinear"].steps] == ["bilinear"] * 3
    assert methods["nearest"].target_size == (18, 26)
    assert [*compared(pathway, UPSAMPLERS, "bilinear")] == ["bilinear", "nearest", "box"]


def test_sizes_are_rounded_up():
    assert [map_size((72, 104), 2**level) for level in (2, 3, 4, 5)] == LEVELS


@pytest.mark.parametrize("method", ["strided", "avg_pool", "box"])
def test_fixed_downsampling_by_hand(method):
    (weights,) = sources(fixed_bottom_up((32, 32), method, steps=2), [(4, 4)])
    expected = {"strided": 1, "avg_pool": 4 * 4, "box": 13 * 13}[method]
    assert np.count_nonzero(weights) == expected


def test_a_target_outside_the_map_is_refused():
    with pytest.raises(ValueError, match=r"targets .*18"):
        sources(fixed_top_down(LEVELS, "nearest"), [(18, 0)])
