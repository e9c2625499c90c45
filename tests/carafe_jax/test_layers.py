import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util

import carafe_jax
from tests.carafe_jax.twins import (
    CHANNELS,
    SMALL,
    X,
    assert_trees_close,
    nnx_variables,
    random_map,
    twins,
)
from tests.kernels import oracle
from tests.kernels.errors import naming
from tests.kernels.sharding import (
    collectives,
    each_axis_type,
    over_the_batch,
    replicated,
    run_and_collectives,
)
from tests.slow import slow

OPTIONS = [
    {"up": 2},
    {"down": 2},
    {"up": 3, "down": 2, "encoder_size": 1, "groups": 2, "batch_norm": True, **SMALL},
    {"down": 2, "encoder_size": 5, "encoder_dilation": 2, "groups": 3, "normalizer": "sigmoid",
     **SMALL},
    {"up": 2, "dtype": jnp.bfloat16, "normalizer": "sigmoid_normalized", **SMALL},
    {"down": 2, "dtype": jnp.float16, "param_dtype": jnp.float16, "batch_norm": True,
     "kernel_size": 3, "compressed_channels": None},
]  # fmt: skip
# Fewer of them at once.
MORE_OPTIONS = [
    {"up": 3, "down": 2, **SMALL},
    {"down": 2, "encoder_dilation": 2, "normalizer": "sigmoid_normalized", **SMALL},
    {"up": 2, "batch_norm": True, **SMALL},
    {"down": 2, "batch_norm": True, "kernel_size": 3, "compressed_channels": None},
    {"up": 2, "param_dtype": jnp.bfloat16, **SMALL},
]


def describe(parameter):
    """A test id; dtypes by their names."""
    if not isinstance(parameter, dict):
        return str(parameter)
    names = {name: getattr(value, "__name__", value) for name, value in parameter.items()}
    return "-".join(f"{name}={value}" for name, value in names.items())


every_option = pytest.mark.parametrize("options", OPTIONS + MORE_OPTIONS, ids=describe)
each_scale = pytest.mark.parametrize("scale", [{"up": 2}, slow({"down": 2})], ids=describe)


class OptionTwins(NamedTuple):
    """What both layers make of X with some options: outputs, kernels and logits."""

    options: dict
    x: jax.Array
    linen: dict
    nnx: dict

    @property
    def geometry(self):
        names = ("kernel_size", "up", "down", "groups")
        given = {name: self.options[name] for name in names if name in self.options}
        return {"kernel_size": 5, **given}

    @property
    def normalizer(self):
        return self.options.get("normalizer", "softmax")


@pytest.fixture(scope="module", params=[*OPTIONS, *map(slow, MORE_OPTIONS)], ids=describe)
def option_twins(request):
    options = request.param
    linen, variables, layer = twins(**options)
    layer.eval()
    if options.get("batch_norm"):
        linen = linen.clone(use_running_average=True)
    x = jnp.asarray(X, options.get("dtype", X.dtype))

    def run(call, kernels, logits):
        return {"y": call(X), "kernels": kernels(X), "logits": logits(x)}

    def bound(method):
        return functools.partial(linen.apply, variables, method=method)

    return OptionTwins(
        options,
        x,
        jax.jit(run, static_argnums=(0, 1, 2))(
            bound(None),
            bound("reassembly_kernels"),
            bound(lambda layer, x: layer.kernel_predictor(x)),
        ),
        jax.jit(run, static_argnums=(0, 1, 2))(
            layer, layer.reassembly_kernels, layer.kernel_predictor
        ),
    )


def shapes_and_dtypes(variables):
    return {
        path: (leaf.shape, leaf.dtype)
        for path, leaf in traverse_util.flatten_dict(dict(variables)).items()
    }


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def abstract_variables(channels, options):
    """Shapes and dtypes of the variables of fresh twins."""
    x = jax.ShapeDtypeStruct((1, 4, 4, channels), jnp.float32)
    linen = carafe_jax.linen.CARAFE(**options, use_running_average=True)
    layer = nnx.eval_shape(lambda: carafe_jax.nnx.CARAFE(channels, **options, rngs=nnx.Rngs(0)))
    return jax.eval_shape(linen.init, jax.random.key(0), x), nnx_variables(layer)


# Twins


@every_option
def test_twins_have_the_same_variables(options):
    linen_variables, variables = abstract_variables(CHANNELS, options)
    assert shapes_and_dtypes(linen_variables) == shapes_and_dtypes(variables)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(variables["params"])}
    assert dtypes == {jnp.dtype(options.get("param_dtype", jnp.float32))}


def test_twins_compute_the_same_from_the_same_parameters(option_twins):
    assert option_twins.linen["y"].dtype == option_twins.x.dtype
    for name, value in option_twins.linen.items():
        twin_value = option_twins.nnx[name]
        assert twin_value.dtype == value.dtype
        np.testing.assert_allclose(np.float32(twin_value), np.float32(value), rtol=1e-6, atol=1e-6)


def test_layers_reassemble_with_the_kernels_they_show(option_twins):
    y, kernels = option_twins.linen["y"], option_twins.linen["kernels"]
    expected = oracle.reassemble(option_twins.x, kernels, **option_twins.geometry)
    tolerance = 2 * float(jnp.finfo(y.dtype).eps)
    np.testing.assert_allclose(np.float64(y), expected, rtol=tolerance, atol=1e-5)


def test_layers_show_the_normalized_logits_of_their_predictor(option_twins):
    kernels = np.asarray(option_twins.linen["kernels"])
    expected = oracle.kernels(
        option_twins.linen["logits"], X.shape[1:3], option_twins.normalizer, **option_twins.geometry
    )
    eps = float(jnp.finfo(option_twins.x.dtype).eps)  # XLA can round fused logits less often
    np.testing.assert_allclose(kernels, expected, rtol=32 * eps)
    if option_twins.normalizer != "sigmoid":
        groups = option_twins.options.get("groups", 1)
        sums = kernels.reshape(*kernels.shape[:-1], groups, -1).sum(axis=-1)
        np.testing.assert_allclose(sums, np.ones_like(sums), rtol=1e-5)


def test_variables_have_the_names_of_the_paper():
    variables, _ = abstract_variables(CHANNELS, {"up": 2, "batch_norm": True, **SMALL})
    paths = {"/".join(path) for path in traverse_util.flatten_dict(variables)}
    assert paths == {
        "params/kernel_predictor/channel_compressor/kernel",
        "params/kernel_predictor/channel_compressor/bias",
        "params/kernel_predictor/norm/scale",
        "params/kernel_predictor/norm/bias",
        "params/kernel_predictor/content_encoder/kernel",
        "params/kernel_predictor/content_encoder/bias",
        "batch_stats/kernel_predictor/norm/mean",
        "batch_stats/kernel_predictor/norm/var",
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"up": 2}, (256 * 64 + 64) + (3 * 3 * 64 * 100 + 100)),
        ({"down": 2}, (256 * 16 + 16) + (3 * 3 * 16 * 25 + 25)),
        ({"up": 2, "compressed_channels": None}, 3 * 3 * 256 * 100 + 100),
        ({"down": 2, "groups": 4, "encoder_size": 5}, (256 * 16 + 16) + (5 * 5 * 16 * 100 + 100)),
        ({"down": 2, "batch_norm": True}, (256 * 16 + 16) + 2 * 16 + (3 * 3 * 16 * 25 + 25)),
    ],
    ids=describe,
)
def test_parameters_are_as_many_as_counted_by_hand(options, expected):
    for variables in abstract_variables(256, options):
        assert count(variables["params"]) == expected


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (6, 4)])
@pytest.mark.parametrize(
    "scale", [{"up": 2}, {"down": 2}, {"up": 3, "down": 2}, {"down": 3}], ids=describe
)
def test_output_sizes_round_up(scale, size):
    x = jax.ShapeDtypeStruct((2, *size, CHANNELS), jnp.float32)
    layer = carafe_jax.linen.CARAFE(**scale, **SMALL)
    y, _ = jax.eval_shape(layer.init_with_output, jax.random.key(0), x)
    rows, columns = (oracle.output_size(n, scale.get("up", 1), scale.get("down", 1)) for n in size)
    assert y.shape == (2, rows, columns, CHANNELS)
    twin = carafe_jax.nnx.CARAFE(CHANNELS, **scale, **SMALL, rngs=nnx.Rngs(0))
    assert jax.eval_shape(twin, x).shape == y.shape


# Where the predictor looks


@pytest.mark.parametrize("size", [(8, 9)])
@pytest.mark.parametrize(
    ("options", "reads"),
    [
        ({"down": 2}, {-1, 0, 1}),
        ({"down": 2, "encoder_size": 1}, {0}),
        slow({"down": 2, "encoder_size": 5}, {-2, -1, 0, 1, 2}),
        ({"down": 2, "encoder_dilation": 2}, {-2, 0, 2}),
        slow({"down": 3}, {-1, 0, 1}),
        ({"up": 2}, {-1, 0, 1}),
        slow({"up": 3, "down": 2}, {-1, 0, 1}),
    ],
    ids=describe,
)
def test_logits_depend_on_exactly_the_sources_around_their_centre(options, reads, size):
    x = random_map(1, *size, CHANNELS)
    predict = twins(**SMALL, **options).nnx.kernel_predictor
    down = options.get("down", 1)
    jacobian = jax.jit(jax.jacrev(lambda x: predict(x)[0].sum(axis=-1)))(x)
    support = abs(jacobian).sum(axis=(2, 5)) > 0  # [q, r, i, j]
    for (q, r, i, j), depends in np.ndenumerate(support):
        assert depends == (i - down * q in reads and j - down * r in reads)


def test_logits_move_with_the_map():
    x = random_map(1, 12, 14, CHANNELS)
    predict = jax.jit(twins(down=2, **SMALL).nnx.kernel_predictor)
    moved = predict(np.roll(x, (2, 4), axis=(1, 2)))
    np.testing.assert_allclose(moved[:, 2:, 3:], predict(x)[:, 1:-1, 1:-2], rtol=1e-5, atol=1e-6)


# Initial values


def box_filter(x, k, up, down):
    r = k // 2
    sums = jax.lax.reduce_window(
        x, 0.0, jax.lax.add, (1, k, k, 1), (1, down, down, 1), [(0, 0), (r, r), (r, r), (0, 0)]
    )
    return np.repeat(np.repeat(sums / k**2, up, axis=1), up, axis=2)


@each_scale
def test_training_starts_near_a_box_filter(scale):
    x = random_map(2, 6, 8, 32)
    linen_y, _ = carafe_jax.linen.CARAFE(**scale).init_with_output(jax.random.key(0), x)
    nnx_y = carafe_jax.nnx.CARAFE(32, **scale, rngs=nnx.Rngs(0))(x)
    expected = box_filter(x, 5, scale.get("up", 1), scale.get("down", 1))
    for y in (linen_y, nnx_y):
        assert 1e-4 < jnp.sqrt(jnp.mean((y - expected) ** 2)) < 1e-2


@pytest.mark.parametrize("normalizer", ["softmax", "sigmoid_normalized"])
@each_scale
def test_a_zero_encoder_is_a_box_filter(scale, normalizer):
    layer = carafe_jax.nnx.CARAFE(
        CHANNELS,
        **scale,
        normalizer=normalizer,
        encoder_init=jax.nn.initializers.zeros,
        rngs=nnx.Rngs(0),
    )
    expected = box_filter(X, 5, scale.get("up", 1), scale.get("down", 1))
    np.testing.assert_allclose(layer(X), expected, rtol=1e-5, atol=1e-6)


def test_twins_use_the_initializers_they_are_given():
    constant = jax.nn.initializers.constant
    inits = {
        "compressor_init": constant(1.0),
        "encoder_init": constant(2.0),
        "bias_init": constant(3.0),
    }
    linen_variables = carafe_jax.linen.CARAFE(up=2, **SMALL, **inits).init(jax.random.key(0), X)
    layer = carafe_jax.nnx.CARAFE(CHANNELS, up=2, **SMALL, **inits, rngs=nnx.Rngs(0))
    for variables in (linen_variables, nnx_variables(layer)):
        predictor = variables["params"]["kernel_predictor"]
        for module, kernel in (("channel_compressor", 1.0), ("content_encoder", 2.0)):
            assert (predictor[module]["kernel"] == kernel).all()
            assert (predictor[module]["bias"] == 3.0).all()


# Kernels can be read out


def test_linen_sows_the_kernels_it_applies_when_asked():
    pair = twins(up=2, **SMALL)
    y, collections = pair.linen.apply(pair.variables, X, mutable=["intermediates"])
    (kernels,) = collections["intermediates"]["reassembly_kernels"]
    np.testing.assert_allclose(
        carafe_jax.reassemble(X, kernels, kernel_size=3, up=2), y, rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(kernels.sum(axis=-1), np.ones(kernels.shape[:-1]), rtol=1e-6)
    np.testing.assert_array_equal(pair.linen.apply(pair.variables, X), y)


class Pyramid(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = carafe_jax.linen.CARAFE(up=2, **SMALL)(x)
        return x


def test_kernels_of_nested_layers_are_sown_under_their_names():
    variables = Pyramid().init(jax.random.key(0), X)
    _, collections = Pyramid().apply(variables, X, mutable=["intermediates"])
    shapes = jax.tree.map(jnp.shape, collections["intermediates"])
    assert shapes == {
        "CARAFE_0": {"reassembly_kernels": ((2, 10, 12, 9),)},
        "CARAFE_1": {"reassembly_kernels": ((2, 20, 24, 9),)},
    }


def test_nothing_is_sown_without_asking():
    pair = twins(up=2, batch_norm=True, **SMALL)
    initial, _ = abstract_variables(CHANNELS, {"up": 2, "batch_norm": True, **SMALL})
    assert initial.keys() == {"params", "batch_stats"}
    _, collections = pair.linen.apply(
        pair.variables, X, use_running_average=False, mutable=["batch_stats"]
    )
    assert collections.keys() == {"batch_stats"}


# Transformations of whole layers


@pytest.mark.parametrize("transform", [nn.remat, nn.jit])
def test_lifted_linen_layers_are_the_same(transform):
    pair = twins(up=2, **SMALL)
    lifted = transform(carafe_jax.linen.CARAFE)(up=2, **SMALL)

    def gradient(layer):
        return jax.jit(jax.grad(lambda v: jnp.mean(layer.apply(v, X) ** 2)))(pair.variables)

    assert_trees_close(gradient(lifted), gradient(pair.linen), atol=1e-7)


def test_nnx_remat_gives_the_same_gradient():
    layer = twins(up=2, **SMALL).nnx

    def call(layer, x):
        return layer(x)

    def gradient(call):
        gradient = nnx.jit(nnx.grad(lambda layer: jnp.mean(call(layer, X) ** 2)))
        return nnx.to_pure_dict(gradient(layer))

    assert_trees_close(gradient(nnx.remat(call)), gradient(call), atol=1e-7)


@each_axis_type
@each_scale
def test_a_sharded_batch_stays_sharded_and_only_gradients_are_reduced(scale, axis_type):
    pair = twins(**scale, **SMALL)
    x = random_map(jax.local_device_count(), 4, 5, CHANNELS)
    sharding = over_the_batch(axis_type)
    sharded = jax.device_put(x, sharding)
    variables = jax.device_put(pair.variables, replicated(sharding))
    forward = jax.jit(pair.linen.apply)
    y, moved = run_and_collectives(forward, variables, sharded)
    assert y.sharding.is_equivalent_to(sharding, y.ndim)
    np.testing.assert_allclose(y, forward(pair.variables, x), rtol=1e-5, atol=1e-6)
    assert not moved
    gradient = jax.jit(jax.grad(lambda variables, x: jnp.mean(pair.linen.apply(variables, x) ** 2)))
    assert collectives(gradient, variables, sharded) == {"all-reduce"}


# Bad options


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("compressed_channels", 0),
        ("encoder_size", 2),
        ("encoder_dilation", 0),
        ("groups", 4),
        ("kernel_size", 4),
        ("up", 0),
        ("normalizer", "relu"),
    ],
)
def test_bad_options_are_named(name, value):
    options, message = {name: value}, naming(name, repr(value))
    with pytest.raises(ValueError, match=message):
        carafe_jax.linen.CARAFE(**options).init(jax.random.key(0), X)
    with pytest.raises(ValueError, match=message):
        carafe_jax.nnx.CARAFE(CHANNELS, **options, rngs=nnx.Rngs(0))


def test_the_implementation_is_chosen_when_called():
    linen, _, layer = twins(up=2, **SMALL)
    layer.implementation = "cuda"
    with pytest.raises(ValueError, match=r"implementation.*'cuda'"):
        layer(X)
    with pytest.raises(NotImplementedError, match="'mosaic_gpu' cannot run"):
        linen.clone(implementation="mosaic_gpu").init(jax.random.key(0), X)


def test_linen_options_are_keywords():
    with pytest.raises(TypeError, match="positional"):
        carafe_jax.linen.CARAFE(16)


def test_nnx_names_a_map_with_other_channels():
    with pytest.raises(ValueError, match=rf"x .*{CHANNELS} channels.*, 3\)"):
        twins(up=2, **SMALL).nnx(X[..., :3])


def test_layers_name_a_map_of_wrong_rank():
    with pytest.raises(ValueError, match=r"x .*rank 4"):
        carafe_jax.linen.CARAFE(up=2).init(jax.random.key(0), X[0])
    with pytest.raises(ValueError, match=r"x .*rank 4"):
        twins(up=2, **SMALL).nnx(X[0])
