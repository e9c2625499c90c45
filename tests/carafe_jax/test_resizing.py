"""Reassembly to any size and at any scale, by functions."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

import carafe_jax
from tests.carafe_jax.twins import random_map
from tests.kernels import oracle
from tests.kernels.errors import naming
from tests.kernels.mosaic_gpu_lowering import lowered
from tests.kernels.sharding import each_axis_type, over_the_batch, run_and_collectives
from tests.slow import slow

HALF = Fraction(1, 2)
# Arguments of a call, and the scales of rows and columns that they mean for a map of SIZE.
SIZE = (5, 6)
TARGETS = [
    ({"size": (8, 4)}, (Fraction(8, 5), Fraction(4, 6))),
    ({"scale": Fraction(17, 10)}, (Fraction(17, 10),) * 2),
    slow({"scale": (Fraction(7, 3), 1)}, (Fraction(7, 3), Fraction(1))),
    slow({"scale": HALF}, (HALF, HALF)),
    slow({"size": (1, 1)}, (Fraction(1, 5), Fraction(1, 6))),
]
each_target = pytest.mark.parametrize(("target", "scales"), TARGETS)


def random_map_and_logits(up=2, groups=2, kernel_size=3, dtype=np.float32, batch=(2,)):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((*batch, *SIZE, 2 * groups))
    logits = 2 * rng.standard_normal((*batch, *SIZE, up**2 * groups * kernel_size**2))
    return jnp.asarray(x, dtype), jnp.asarray(logits, dtype)


# carafe, reassemble and reassembly_kernels


@each_target
@pytest.mark.parametrize("up", [2, slow(1), slow(3)])
def test_each_output_takes_its_kernel_from_the_field_and_reassembles(target, scales, up):
    x, logits = random_map_and_logits(up)
    options = {"kernel_size": 3, "groups": 2, "up": up, "normalizer": "sigmoid_normalized"}
    weights = oracle.resized_kernels(logits, scales, **options)
    kernels = carafe_jax.reassembly_kernels(x, logits, **options, **target)
    np.testing.assert_allclose(kernels, weights, rtol=1e-5, atol=1e-6)
    expected = oracle.reassemble(x, weights, kernel_size=3, groups=2, scales=scales)
    y = carafe_jax.carafe(x, logits, **options, **target)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    again = carafe_jax.reassemble(x, kernels, kernel_size=3, groups=2, **target)
    np.testing.assert_allclose(again, y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("fixed", "target"),
    [
        ({"up": 2}, {"scale": 2}),
        ({"up": 2}, {"size": (10, 12)}),
        ({"up": 3}, {"scale": (3, 3)}),
        ({}, {"size": SIZE}),
    ],
)
def test_at_the_scale_of_the_predictor_the_bits_are_those_of_up(fixed, target):
    x, logits = random_map_and_logits(fixed.get("up", 1))
    carafe = functools.partial(carafe_jax.carafe, kernel_size=3, groups=2, **fixed)
    np.testing.assert_array_equal(carafe(x, logits, **target), carafe(x, logits))
    kernels = functools.partial(carafe_jax.reassembly_kernels, kernel_size=3, groups=2, **fixed)
    np.testing.assert_array_equal(kernels(x, logits, **target), kernels(x, logits))


@pytest.mark.parametrize("down", [2, slow(3)])
def test_predicted_per_pixel_and_downsampled_the_bits_are_those_of_every_second_kernel(down):
    x, logits = random_map_and_logits(up=1)
    options = {"kernel_size": 3, "groups": 2}
    y = carafe_jax.carafe(x, logits, **options, scale=Fraction(1, down))
    expected = carafe_jax.carafe(x, logits[:, ::down, ::down], **options, down=down)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("size", [(9, 12), (10, 11), (9, 11)])
def test_an_odd_size_is_the_doubled_map_without_its_last_row_or_column(size):
    x, logits = random_map_and_logits()
    options = {"kernel_size": 3, "groups": 2}
    whole = carafe_jax.carafe(x, logits, **options, up=2)
    cropped = whole[:, : size[0], : size[1]]
    y = carafe_jax.carafe(x, logits, **options, up=2, size=size)
    np.testing.assert_array_equal(y, cropped)
    kernels = carafe_jax.reassembly_kernels(x, logits, **options, up=2, size=size)
    y = carafe_jax.reassemble(x, kernels, **options, size=size)
    np.testing.assert_array_equal(y, cropped)


def test_kernels_are_read_from_the_field_at_every_scale_of_small_maps():
    rng = np.random.default_rng(0)
    draws = rng.integers(1, 6, (12, 4)).tolist()
    # Outputs 0 to 2 are centred as those of up=2, but take other kernels; so do both of 1 x 1 maps.
    for sources, up, numerator, denominator in [(2, 2, 5, 4), (1, 4, 2, 1), *draws]:
        scale = Fraction(numerator, denominator)
        x = np.zeros((1, sources, sources, 1), np.float32)
        logits = rng.standard_normal((1, sources, sources, up**2), np.float32)
        found = carafe_jax.reassembly_kernels(
            x, logits, kernel_size=1, up=up, scale=scale, normalizer="sigmoid"
        )
        expected = oracle.resized_kernels(logits, (scale, scale), "sigmoid", 1, up)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [np.int8(3), (np.uint8(3), 3), 3, Fraction(3)])
def test_integers_of_numpy_do_not_overflow(scale):
    x, logits = jnp.zeros((1, 100, 100, 1)), jnp.zeros((1, 100, 100, 1))
    shape = jax.eval_shape(
        lambda x, logits: carafe_jax.carafe(x, logits, kernel_size=1, scale=scale), x, logits
    )
    assert shape.shape == (1, 300, 300, 1)


@pytest.mark.parametrize(
    "target", [{"scale": Fraction(1, 1000)}, {"scale": 60}, {"size": (60, 50)}]
)
def test_large_factors_compile_to_small_programs(target):
    x, logits = random_map_and_logits(1)
    run = jitted_gradients(**target)
    assert len(run.lower(x, logits).as_text()) < 1_000_000
    if "size" in target:
        _, (dx, _) = run(x, logits)
        weights = oracle.resized_kernels(
            logits, (Fraction(12), Fraction(50, 6)), "softmax", 3, 1, 2
        )
        options = {"kernel_size": 3, "groups": 2, "scales": (Fraction(12), Fraction(50, 6))}
        y = oracle.reassemble(x, weights, **options)
        expected = oracle.input_gradient(weights, np.cos(y), SIZE, **options)
        np.testing.assert_allclose(dx, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("up", "down"), [(3, 2), slow(2, 3), slow(5, 4)])
def test_a_scale_of_given_weights_is_up_and_down(up, down):
    x, _ = random_map_and_logits()
    size = [oracle.output_size(n, up, down) for n in SIZE]
    weights = random_map(2, *size, 2 * 9)
    options = {"kernel_size": 3, "groups": 2}
    np.testing.assert_allclose(
        carafe_jax.reassemble(x, weights, **options, scale=Fraction(up, down)),
        carafe_jax.reassemble(x, weights, **options, up=up, down=down),
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("target", "order"), [({"size": (8, 4)}, 1), slow({"scale": Fraction(17, 10)}, 2)]
)
def test_gradients_are_those_of_finite_differences(target, order):
    with jax.enable_x64(True):
        x, logits = random_map_and_logits(dtype=np.float64)
        x, logits = x[:1, :3, :4], logits[:1, :3, :4]

        def loss(x, logits):
            y = carafe_jax.carafe(x, logits, kernel_size=3, groups=2, up=2, **target)
            return jnp.sum(jnp.sin(y))

        check_grads(jax.jit(loss), (x, logits), order=order, modes=["rev"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", slow("float16"), slow("float64")])
def test_sums_are_computed_in_float32_and_returned_in_the_dtype_of_the_map(dtype):
    with jax.enable_x64(dtype == "float64"):
        x, logits = random_map_and_logits(dtype=dtype)
        options = {"kernel_size": 3, "groups": 2, "up": 2, "size": (8, 4)}
        y = carafe_jax.carafe(x, logits, **options)
        assert y.dtype == dtype
        wide = "float64" if dtype == "float64" else "float32"
        expected = carafe_jax.carafe(x.astype(wide), logits.astype(wide), **options)
        np.testing.assert_array_equal(y, expected.astype(dtype))


def test_offset_logits_are_added_before_the_normalizer():
    x, logits = random_map_and_logits()
    scales, offset_logits = (Fraction(8, 5), Fraction(4, 6)), random_map(8, 4, 18)
    options = {"kernel_size": 3, "groups": 2, "up": 2, "normalizer": "softmax"}
    expected = oracle.resized_kernels(logits, scales, **options, offset_logits=offset_logits)
    found = carafe_jax.reassembly_kernels(
        x, logits, **options, size=(8, 4), offset_logits=offset_logits
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    y = carafe_jax.carafe(x, logits, **options, size=(8, 4), offset_logits=offset_logits)
    expected = oracle.reassemble(x, expected, kernel_size=3, groups=2, scales=scales)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"size": (8, 4), "scale": 2}, ("size", "scale", "2")),
        ({"size": (8, 0)}, ("size", "1", "0")),
        ({"size": 8}, ("size", "two", "8")),
        ({"size": (8.0, 4)}, ("size", "8.0")),
        ({"scale": 1.7}, ("scale", "Fraction", "1.7")),
        ({"scale": Fraction(-1, 2)}, ("scale", "positive", "-1")),
        ({"scale": (1, 2, 3)}, ("scale", "two", "3")),
        ({"scale": True}, ("scale", "True")),
        ({"size": (8, 4), "down": 2}, ("down", "1", "size", "2")),
        ({"scale": np.array(2)}, ("scale", "not an array", "2")),
        ({"offset_logits": np.zeros((8, 4, 18), np.float32)}, ("offset_logits", "None")),
        ({"offset_logits": 0}, ("offset_logits", "None", "int")),
        (
            {"size": (8, 4), "offset_logits": np.zeros((8, 5, 18), np.float32)},
            ("offset_logits", "(8, 4, 18)", "(8, 5, 18)"),
        ),
    ],
)
def test_a_wrong_target_is_refused(arguments, names):
    x, logits = random_map_and_logits(up=1)
    with pytest.raises(ValueError, match=naming(*names)):
        carafe_jax.carafe(x, logits, kernel_size=3, groups=2, **arguments)


def test_weights_of_another_size_and_up_beside_a_size_are_refused():
    x, weights = random_map(1, 5, 6, 2), random_map(1, 8, 4, 9)
    with pytest.raises(
        ValueError, match=naming("weights", "(1, 9, 4, 9)", "scale (9/5, 2/3)", "(1, 8, 4, 9)")
    ):
        carafe_jax.reassemble(x, weights, kernel_size=3, size=(9, 4))
    with pytest.raises(ValueError, match=naming("weights", "scale (2, 2)", "(1, 8, 4, 9)")):
        carafe_jax.reassemble(x, weights, kernel_size=3, scale=2)
    with pytest.raises(ValueError, match=naming("up", "1", "size", "2")):
        carafe_jax.reassemble(x, weights, kernel_size=3, up=2, size=(8, 4))


def test_the_gpu_kernels_refuse_scales_of_no_common_cell_and_say_why():
    x, weights = random_map(1, 5, 6, 4), random_map(1, 8, 4, 25)
    call = functools.partial(carafe_jax.reassemble, x, weights, size=(8, 4))
    with pytest.raises(NotImplementedError, match=naming("mosaic_gpu", "8/5", "2/3", "xla")):
        call(implementation="mosaic_gpu")
    assert call(implementation="xla").shape == (1, 8, 4, 4)


def test_one_pixel_does_not_take_the_kernels_of_all():
    x = jax.ShapeDtypeStruct((1, 32, 32, 8), jnp.float32)
    logits = jax.ShapeDtypeStruct((1, 32, 32, 100), jnp.float32)
    call = functools.partial(carafe_jax.carafe, up=2)
    flops = [
        jax.jit(run).lower(x, logits).compile().cost_analysis()["flops"]
        for run in (call, functools.partial(call, size=(1, 1)))
    ]
    assert flops[1] < flops[0] / 20


def test_the_gpu_kernels_compute_the_crop_of_a_doubled_map_from_logits():
    x = jax.ShapeDtypeStruct((1, 5, 6, 64), jnp.float32)
    logits = jax.ShapeDtypeStruct((1, 5, 6, 100), jnp.float32)
    carafe = functools.partial(carafe_jax.carafe, up=2, implementation="mosaic_gpu")
    assert "carafe_forward" in lowered(functools.partial(carafe, size=(9, 12)), x, logits)
    with pytest.raises(NotImplementedError, match=naming("mosaic_gpu", "8/5", "xla")):
        lowered(functools.partial(carafe, size=(8, 12)), x, logits)


# Transformations


def jitted_gradients(**target):
    def loss(x, logits):
        return jnp.sum(jnp.sin(carafe_jax.carafe(x, logits, kernel_size=3, groups=2, **target)))

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


def assert_trees_close(found, expected):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), found, expected
    )


def test_vmap_pmap_and_checkpoint_compute_what_a_batch_does():
    x, logits = random_map_and_logits(batch=(4, 2))

    def carafe(x, logits):
        return carafe_jax.carafe(x, logits, kernel_size=3, groups=2, up=2, size=(8, 4))

    def gradients(function):
        return jax.jit(jax.grad(lambda *args: jnp.sum(jnp.sin(function(*args))), argnums=(0, 1)))

    expected = carafe(x, logits), gradients(carafe)(x, logits)
    for transformed in (jax.vmap(carafe), jax.checkpoint(carafe)):
        found = transformed(x, logits), gradients(transformed)(x, logits)
        assert_trees_close(found, expected)
    assert_trees_close(jax.pmap(carafe)(x, logits), expected[0])


@each_axis_type
def test_a_sharded_batch_stays_on_its_devices(axis_type):
    x, logits = random_map_and_logits(batch=(4,))
    run = jitted_gradients(up=2, size=(8, 4))
    expected = run(x, logits)
    sharding = over_the_batch(axis_type)
    with jax.set_mesh(sharding.mesh):
        sharded = jax.device_put((x, logits), sharding)
        found, kinds = run_and_collectives(run, *sharded)
    assert kinds <= {"all-reduce"}  # the sum of the loss
    assert_trees_close(found, expected)


@each_axis_type
def test_offset_logits_may_be_sharded_over_the_axis_of_the_batch(axis_type):
    x, logits = random_map_and_logits(batch=(4,))
    offset_logits = random_map(8, 4, 18)

    @jax.jit
    def run(x, logits, offset_logits):
        def loss(*operands):
            x, logits, offset_logits = operands
            y = carafe_jax.carafe(
                x, logits, kernel_size=3, groups=2, up=2, size=(8, 4), offset_logits=offset_logits
            )
            return jnp.sum(jnp.sin(y))

        return jax.value_and_grad(loss, argnums=(0, 1, 2))(x, logits, offset_logits)

    expected = run(x, logits, offset_logits)
    sharding = over_the_batch(axis_type)
    with jax.set_mesh(sharding.mesh):
        found = run(*jax.device_put((x, logits, offset_logits), sharding))
    assert_trees_close(found, expected)


def test_shard_map_sums_the_gradient_of_logits_that_all_devices_share():
    x, logits = random_map_and_logits(batch=(4,))
    logits = logits[:1]
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

    def carafe(x, logits):
        return carafe_jax.carafe(x, logits, kernel_size=3, groups=2, up=2, size=(8, 4))

    mapped = jax.shard_map(carafe, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))

    def loss(function):
        return lambda logits: jnp.sum(jnp.sin(function(logits)))

    expected = jax.grad(
        loss(lambda logits: carafe(x, jnp.broadcast_to(logits, (4, *logits.shape[1:]))))
    )(logits)
    found = jax.jit(jax.grad(loss(lambda logits: mapped(x, logits))))(logits)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_call_exports_for_every_batch_size_and_needs_a_known_map_size():
    x, logits = random_map_and_logits()
    run = jitted_gradients(up=2, size=(8, 4))

    def shapes(*sizes):
        return [jax.ShapeDtypeStruct((*sizes, each.shape[3]), each.dtype) for each in (x, logits)]

    (batch,) = jax.export.symbolic_shape("batch")
    exported = jax.export.deserialize(jax.export.export(run)(*shapes(batch, *SIZE)).serialize())
    assert_trees_close(exported.call(x, logits), run(x, logits))
    sizes = jax.export.symbolic_shape("batch, height, width")
    with pytest.raises(ValueError, match=naming("x", "known", "size", "height")):
        jax.export.export(run)(*shapes(*sizes))
