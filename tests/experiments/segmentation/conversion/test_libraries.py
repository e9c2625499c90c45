"""Compares the names and shapes of networks with those of the libraries' own networks."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from experiments.engine.config import ConfigError
from experiments.segmentation.conversion.libraries import in_backbone, layout
from experiments.segmentation.conversion.networks import check_network, config_of, library_of
from experiments.segmentation.task import initial_variables
from experiments.weights.loading import WeightsError
from tests.experiments.segmentation.conversion.key_lists import NAMES, key_list

# What the libraries' code gives to the same networks.
CONFIGS = {
    "csail_upernet50": ("upernet", 50, "deep", 32, "resize_first", 0.0, None),
    "csail_pspnet50": ("pspnet", 50, "deep", 8, "convolution_first", 0.1, 512),
    "csail_pspnet18": ("pspnet", 18, "deep", 8, "convolution_first", 0.1, 128),
    "mmseg_upernet50": ("upernet", 50, "v1c", 32, "convolution_first", 0.1, 256),
    "mmseg_pspnet50": ("pspnet", 50, "v1c", 8, "convolution_first", 0.1, 256),
}


@functools.cache
def config(name):
    return config_of(name.partition("_")[0], key_list(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_network_is_recognised_by_its_names_and_shapes(name):
    library = name.partition("_")[0]
    assert library_of(key_list(name)) == library
    model = config(name).model
    backbone = model.backbone
    assert (
        model.architecture,
        backbone.depth,
        backbone.stem,
        backbone.output_stride,
        model.pooling_order,
        model.dropout,
        model.auxiliary_channels,
    ) == CONFIGS[name]
    assert (model.channels, backbone.width, model.auxiliary) == (
        512,
        64,
        CONFIGS[name][-1] is not None,
    )


# Paths within the network, and names. Their shapes do not tell bins and levels apart.
NAMED = [
    ("csail_upernet50", "head/ppm/bin_3/conv/kernel", "ppm_conv.2.0.weight"),
    ("csail_upernet50", "head/ppm/bin_6/bn/mean", "ppm_conv.3.1.running_mean"),
    ("csail_upernet50", "head/ppm/output/bn/scale", "ppm_last_conv.1.weight"),
    ("csail_upernet50", "head/lateral_2/conv/kernel", "fpn_in.0.0.weight"),
    ("csail_upernet50", "head/output_2/conv/kernel", "fpn_out.0.0.0.weight"),
    ("csail_upernet50", "head/output_4/bn/var", "fpn_out.2.0.1.running_var"),
    ("csail_upernet50", "head/fusion/bn/bias", "conv_last.0.1.bias"),
    ("csail_pspnet50", "head/ppm/bin_2/conv/kernel", "ppm.1.1.weight"),
    ("csail_pspnet50", "head/ppm/bin_1/bn/scale", "ppm.0.2.weight"),
    ("csail_pspnet50", "head/ppm/output/bn/var", "conv_last.1.running_var"),
    ("csail_pspnet50", "auxiliary/classifier/conv/bias", "conv_last_deepsup.bias"),
    ("csail_pspnet50", "backbone/layer3_5/conv2/kernel", "layer3.5.conv2.weight"),
    ("mmseg_upernet50", "head/ppm/bin_2/conv/kernel", "decode_head.psp_modules.1.1.conv.weight"),
    ("mmseg_upernet50", "head/ppm/output/bn/bias", "decode_head.bottleneck.bn.bias"),
    ("mmseg_upernet50", "head/output_3/bn/mean", "decode_head.fpn_convs.1.bn.running_mean"),
    ("mmseg_upernet50", "head/output_2/conv/kernel", "decode_head.fpn_convs.0.conv.weight"),
    ("mmseg_upernet50", "head/lateral_4/bn/scale", "decode_head.lateral_convs.2.bn.weight"),
    ("mmseg_pspnet50", "auxiliary/hidden/bn/scale", "auxiliary_head.convs.0.bn.weight"),
    ("mmseg_pspnet50", "backbone/bn2/scale", "backbone.stem.4.weight"),
]


@pytest.mark.parametrize(("network", "path", "name"), NAMED)
def test_names_of_layers_of_equal_shape(network, path, name):
    names = layout(network.partition("_")[0], config(network).model)
    assert names.source(("params", *path.split("/"))).name == name


def with_offsets(name, outputs, prefix):
    """A list of a network whose Res-5 is deformable."""
    shapes = dict(key_list(name))
    for block in range(3):
        offset = f"{prefix}layer4.{block}.conv2.conv_offset"
        shapes |= {f"{offset}.weight": (outputs, 512, 3, 3), f"{offset}.bias": (outputs,)}
    return shapes


def test_networks_of_mmseg_may_have_deformable_convolutions():
    shapes = with_offsets("mmseg_upernet50", 54, "backbone.")
    model = config_of("mmseg", shapes).model
    assert model.backbone.deformable_stages == (False, False, False, True)
    assert model.backbone.deformable_groups == 2
    check_network("mmseg", model)
    names = layout("mmseg", model)
    path = ("params", "backbone", "layer4_0", "conv2", "conv_offset", "kernel")
    assert names.source(path).name == "backbone.layer4.0.conv2.conv_offset.weight"
    deep = dataclasses.replace(model, backbone=dataclasses.replace(model.backbone, stem="deep"))
    with pytest.raises(ConfigError, match=r"deformable_stages: \(False, False, False, True\) -> "):
        check_network("csail", deep)


@pytest.mark.parametrize(
    ("name", "outputs", "prefix", "network"),
    [
        ("mmseg_upernet50", 18, "backbone.", "without masks .DCNv1"),
        ("csail_upernet50", 27, "", "deformable convolutions in Res-5"),
    ],
)
def test_other_deformable_convolutions_are_refused(name, outputs, prefix, network):
    library = name.partition("_")[0]
    with pytest.raises(WeightsError, match=f"plain convolutions, or for mmseg .*{network}"):
        config_of(library, with_offsets(name, outputs, prefix))


SLOW = {"csail_pspnet50", "mmseg_pspnet50"}  # the others have the same layers


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in NAMES]
)
def test_names_and_shapes_are_the_librarys(name):
    variables = jax.eval_shape(lambda: initial_variables(config(name)))
    names = layout(name.partition("_")[0], config(name).model)
    sources, leaves = names.sources(variables), jax.tree.leaves(variables)
    found = {
        source.name: source.arrangement.to_file(np.empty(leaf.shape, np.int8)).shape
        for source, leaf in zip(sources.values(), leaves, strict=True)
    }
    expected = {key: shape for key, shape in key_list(name).items() if not names.unused(key)}
    assert found == expected


@pytest.mark.parametrize("name", NAMES)
def test_arrays_without_a_use_are_buffers_of_normalisations(name):
    library = name.partition("_")[0]
    unused = layout(library, config(name).model).unused
    kinds = {key.rpartition(".")[-1] for key in key_list(name) if unused(key)}
    sums = {"_tmp_running_mean", "_tmp_running_var", "_running_iter"}
    assert kinds == {"num_batches_tracked"} | (sums if library == "csail" else set())


def test_files_are_divided_at_the_backbone():
    names = list(key_list("csail_upernet50"))
    inside = [in_backbone("csail", name) for name in names]
    first = names.index("ppm_conv.0.0.weight")
    assert inside == [True] * first + [False] * (len(names) - first)
    assert all(
        in_backbone("mmseg", name) == name.startswith("backbone.")
        for name in key_list("mmseg_pspnet50")
    )
