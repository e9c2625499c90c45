"""Tests frozen normalisation and frozen stages of a ResNet."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models.resnet import Bottleneck, ResNet, is_frozen
from experiments.models.resnet_config import ResNetConfig
from tests.compilation import jit
from tests.experiments.variables import scaled_variables


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def norm_leaves(tree):
    """Scale and bias of every BatchNorm, by path."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    paths = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}
    names = {path.rpartition("/")[0] for path in paths if path.endswith("/scale")}
    return {path: leaf for path, leaf in paths.items() if path.rpartition("/")[0] in names}


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_frozen_norms_are_constant_and_have_no_gradient(norm):
    x = images(2, 32, 32, 3)
    model = ResNet(ResNetConfig(18, "carafe", norm=norm, output_stride=8, width=8), 4)
    variables = scaled_variables(model, x)

    @jit
    def run(params):
        def loss(params):
            logits, updates = model.apply(
                {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
            )
            return jnp.square(logits).sum(), (logits, updates)

        return *jax.grad(loss, has_aux=True)(params), model.apply(variables, x)

    gradients, (logits, updates), evaluated = run(variables["params"])
    moved = [
        (before != after).any()
        for before, after in zip(
            jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(updates), strict=False
        )
    ]
    norms = norm_leaves(gradients)
    # bn1, 8 blocks of 2, 3 shortcuts, 3 predictors.
    assert len(norms) == 2 * (1 + 8 * 2 + 3 + 3)
    learned = [leaf.any() for leaf in norms.values()]
    if norm == "frozen":
        assert not any(moved)
        assert not any(learned)
        np.testing.assert_allclose(logits, evaluated, rtol=1e-4)
    else:
        assert all(moved)
        assert all(learned)
    others = [gradients["conv1"], gradients["fc"], gradients["layer4_0"]["conv1"]]
    others.append(gradients["pool"]["kernel_predictor"]["content_encoder"])
    assert all(leaf.any() for leaf in jax.tree.leaves(others))


@pytest.mark.slow
@pytest.mark.parametrize("stages", [0, 2])
def test_frozen_stages_have_no_gradient_and_constant_statistics(stages):
    model = ResNet(ResNetConfig(18, "max_pool", width=2), num_classes=None, frozen_stages=stages)
    x = images(1, 64, 64, 3)
    key = jax.random.key(1, impl="rbg")
    variables = jit(functools.partial(model.init, method="features"))(key, x)

    @jit
    def gradients(params):
        def loss(params):
            maps, changed = model.apply(
                {**variables, "params": params},
                x,
                train=True,
                method="features",
                mutable=["batch_stats"],
            )
            return sum((level**2).sum() for level in maps), changed["batch_stats"]

        return jax.grad(loss, has_aux=True)(params)

    found, statistics = gradients(variables["params"])
    for path, gradient in jax.tree.leaves_with_path(found):
        names = tuple(key.key for key in path)
        if is_frozen(names, stages):
            np.testing.assert_array_equal(gradient, 0)
    frozen = {name for name in found if is_frozen((name,), stages)}
    stem = {"conv1", "bn1"} if stages else set()
    layers = {name for name in found if name.startswith("layer") and int(name[5]) <= stages}
    assert frozen == stem | layers
    moved = {
        name
        for name, before in variables["batch_stats"].items()
        if not all(map(np.array_equal, jax.tree.leaves(before), jax.tree.leaves(statistics[name])))
    }
    assert moved == set(variables["batch_stats"]) - frozen
    # The last scale of a block starts at 0, so some of its kernels have no gradient.
    learned = {name for name in found if any(np.any(leaf) for leaf in jax.tree.leaves(found[name]))}
    assert learned == set(found) - frozen


def test_a_deep_stem_is_frozen_as_a_whole():
    model = ResNet(ResNetConfig(18, stem="deep", width=2), num_classes=None)
    params = jax.eval_shape(
        functools.partial(model.init, method="features"),
        jax.random.key(0),
        jnp.zeros((1, 32, 32, 3)),
    )["params"]
    stem = {f"{name}{index}" for name in ("conv", "bn") for index in (1, 2, 3)}
    assert {name for name in params if is_frozen((name,), 1)} == stem | {"layer1_0", "layer1_1"}


def test_frozen_stages_that_do_not_exist_are_refused():
    model = ResNet(ResNetConfig(18, width=4), num_classes=None, frozen_stages=5)
    with pytest.raises(ValueError, match=r"frozen_stages.* 5\b"):
        jax.eval_shape(
            functools.partial(model.init, method="features"),
            jax.random.key(0),
            jnp.zeros((1, 32, 32, 3)),
        )


@pytest.mark.slow
def test_frozen_norms_do_not_affect_the_norms_of_lip():
    x = images(1, 5, 6, 4)
    config = ResNetConfig(50, "lip", norm="frozen")
    block = Bottleneck(config, 2, True, (1, 1), train=True, dtype=None, axis_name=None)
    variables = scaled_variables(block, x)
    gradients = jit(jax.grad(lambda v: block.apply(v, x).sum()))(variables)["params"]
    learned = {path for path, leaf in norm_leaves(gradients).items() if leaf.any()}
    assert learned == {path for path in norm_leaves(gradients) if "resample" in path}
