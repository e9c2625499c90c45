"""Compares converted networks with networks in PyTorch that have the libraries' names."""

import functools
import importlib

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments.models.resnet_config import BLOCKS
from experiments.segmentation.conversion.libraries import layout
from experiments.segmentation.conversion.networks import config_of, library_of
from experiments.segmentation.task import initial_variables, make_model
from experiments.weights.loading import arrays_for_file, file_shapes, load
from tests.compilation import jit
from tests.experiments.segmentation.conversion.key_lists import NAMES, key_list

SIZES = [(64, 96), (75, 57)]


def networks():
    return importlib.import_module("tests.experiments.segmentation.conversion.public_networks")


def parts_of(name):
    library, _, rest = name.partition("_")
    return library, rest[:-2], int(rest[-2:])


@pytest.mark.torch
@pytest.mark.parametrize("name", NAMES)
def test_the_networks_in_pytorch_have_the_librarys_names(name):
    library, architecture, depth = parts_of(name)
    parts = networks().NETWORKS[library](architecture, depth).parts()
    found = {key: tuple(x.shape) for part in parts for key, x in part.state_dict().items()}
    assert found == key_list(name)


@functools.cache
def both(name):
    library, architecture, depth = parts_of(name)
    return networks().randomized(networks().NETWORKS[library](architecture, depth, 16, 32))


def files(network, folder):
    save = importlib.import_module("safetensors.torch").save_file
    paths = []
    for index, part in enumerate(network.parts()):
        paths.append(folder / f"{index}.safetensors")
        save({key: x.contiguous() for key, x in part.state_dict().items()}, paths[-1])
    return paths


def stages(model, variables, x):
    """The maps of our network by the names of the stages."""

    def run(variables, x):
        (logits, auxiliary), found = model.apply(
            variables, x, method="layers", mutable=["intermediates"], capture_intermediates=True
        )
        inside = found["intermediates"]
        blocks = BLOCKS[model.config.backbone.depth]
        names = [f"layer{stage}_{count - 1}" for stage, count in enumerate(blocks, 1)]
        maps = {f"c{i}": inside["backbone"][name]["__call__"][0] for i, name in enumerate(names, 2)}
        for part in ("ppm", "output_2", "output_3", "output_4"):
            if part in inside["head"]:
                maps[part] = inside["head"][part]["__call__"][0]
        if auxiliary is not None:
            maps["auxiliary"] = auxiliary
        return maps | {"logits": logits}

    return jit(run)(variables, x)


@pytest.mark.torch
@pytest.mark.parametrize("name", NAMES)
def test_stages_equal_those_in_pytorch(name, tmp_path):
    torch = importlib.import_module("torch")
    network = both(name)
    paths = files(network, tmp_path)
    shapes = file_shapes(paths)
    library = library_of(list(shapes))
    config = config_of(library, shapes)
    names = layout(library, config.model)
    loaded = load(paths, jax.eval_shape(lambda: initial_variables(config)), names)
    model = make_model(config)
    for size in SIZES:
        x = np.random.default_rng(0).standard_normal((2, *size, 3), np.float32)
        found = stages(model, loaded.variables, x)
        with torch.no_grad():
            expected = network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
        assert {*found} == {*expected}
        for stage, theirs in expected.items():
            theirs = theirs.numpy().transpose(0, 2, 3, 1)
            assert 0.1 < np.std(theirs) < 30, stage
            scale = float(np.abs(theirs).max())
            np.testing.assert_allclose(
                found[stage], theirs, rtol=0, atol=1e-4 * max(1, scale), err_msg=stage
            )
    back = arrays_for_file(loaded.variables, names, loaded.rest)
    for path in paths:
        for key, array in load_file(path).items():
            assert (back[key].dtype, back[key].shape) == (array.dtype, array.shape)
            assert back[key].tobytes() == array.tobytes(), key
    assert len(back) == sum(len(load_file(path)) for path in paths)
