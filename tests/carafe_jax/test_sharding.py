"""Operands with any sharding over several devices give the result of one device."""

import functools
from unittest import mock

import jax
import numpy as np
import pytest
from carafe_kernels.mosaic_gpu import calls
from carafe_kernels.mosaic_gpu.batching import folded
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import carafe_jax
from tests.kernels.cases import Case
from tests.kernels.sharding import each_axis_type
from tests.kernels.stand_ins import stand_ins

CASES = [
    Case(3, up=2, size=(4, 4), batch=4, group_channels=8),
    Case(1, down=2, size=(8, 8), batch=4, groups=2, group_channels=4),
    Case(3, size=(4, 4), batch=4, groups=4, group_channels=1),
    Case(1, up=2, size=(4, 4), batch=4, groups=4, group_channels=1),
]
MESHES = [(1, 4), (2, 2)]
AXES = ("a", "b")


def mesh_of(sizes, axis_type):
    return jax.make_mesh(sizes, AXES, axis_types=(axis_type,) * 2)


def second_shape(form, case):
    return case.logits_shape if form == "carafe" else case.weights_shape


def operands(form, case):
    rng = np.random.default_rng(0)
    shapes = case.x_shape, second_shape(form, case), case.y_shape
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def run(form, case, implementation):
    operator = functools.partial(
        getattr(carafe_jax, form), implementation=implementation, **case.options
    )

    def forward_and_gradients(x, weights, dy):
        y, pullback = jax.vjp(operator, x, weights)
        if (sharding := jax.typeof(y).sharding) and not sharding.mesh.empty:
            dy = jax.sharding.reshard(dy, sharding)
        return y, *pullback(dy)

    return forward_and_gradients


@functools.cache
def expected(form, case):
    return jax.jit(run(form, case, "xla"))(*operands(form, case))


@st.composite
def specs(draw, shape, sizes, axes=AXES):
    """How an array may be sharded: each mesh axis shards one dimension or none."""
    axes_by_dimension = [[] for _ in shape]
    for axis in draw(st.permutations(axes)):
        dimension = draw(st.none() | st.integers(0, len(shape) - 1))
        if dimension is not None:
            names = [*axes_by_dimension[dimension], axis]
            shards = np.prod([sizes[AXES.index(name)] for name in names])
            if shape[dimension] % shards == 0:
                axes_by_dimension[dimension] = names
    return P(
        *(
            tuple(names) if len(names) > 1 else names[0] if names else None
            for names in axes_by_dimension
        )
    )


@st.composite
def setups(draw):
    form = draw(st.sampled_from(["carafe", "reassemble"]))
    case = draw(st.sampled_from(CASES))
    sizes = draw(st.sampled_from(MESHES))
    shapes = case.x_shape, second_shape(form, case)
    return form, case, sizes, [draw(specs(shape, sizes)) for shape in shapes]


def assert_equals_one_device(setup, axis_type, implementation):
    form, case, sizes, (x_spec, weights_spec) = setup
    mesh = mesh_of(sizes, axis_type)
    x, weights, dy = operands(form, case)
    sharded = [
        jax.device_put(array, NamedSharding(mesh, spec))
        for array, spec in ((x, x_spec), (weights, weights_spec), (dy, P()))
    ]
    with jax.sharding.set_mesh(mesh):
        actual = jax.jit(run(form, case, implementation))(*sharded)
    for value, desired in zip(actual, expected(form, case), strict=True):
        np.testing.assert_allclose(value, desired, rtol=1e-5, atol=1e-5)


# The same mesh axis shards the batch of one operand and the channels of the other operand.
one_mesh_axis_for_both_operands = example(
    setup=("reassemble", CASES[0], (2, 2), [P(None, None, None, "a"), P("a")])
)


@each_axis_type
@settings(max_examples=2)
@given(setup=setups())
@one_mesh_axis_for_both_operands
def test_xla_equals_one_device(axis_type, setup):
    assert_equals_one_device(setup, axis_type, "xla")


@each_axis_type
@settings(max_examples=2)
@given(setup=setups())
@one_mesh_axis_for_both_operands
def test_kernels_equal_one_device(axis_type, setup):
    with stand_ins():
        assert_equals_one_device(setup, axis_type, "stand_ins")


@pytest.mark.slow
@each_axis_type
@settings(max_examples=40)
@given(setup=setups())
@one_mesh_axis_for_both_operands
def test_more_shardings_equal_one_device(axis_type, setup):
    assert_equals_one_device(setup, axis_type, "xla")
    with stand_ins():
        assert_equals_one_device(setup, axis_type, "stand_ins")
    with stand_ins(together=True) as computed:
        assert_equals_one_device(setup, axis_type, "stand_ins")
    gradients = ("x", "logits" if setup[0] == "carafe" else "weights")
    assert set(computed) == {("y",), gradients}


# vmap over an explicit axis. With automatic axes, vmap does not see the mesh.

MAPPED = 4


def mapped_operands(form, case, in_axes):
    rng = np.random.default_rng(0)
    shapes = case.x_shape, second_shape(form, case), case.y_shape
    return [
        rng.standard_normal(shape if axis is None else (MAPPED, *shape)).astype(np.float32)
        for shape, axis in zip(shapes, in_axes, strict=True)
    ]


@functools.cache
def expected_of_vmap(form, case, in_axes):
    mapped = jax.jit(jax.vmap(run(form, case, "xla"), in_axes))
    return mapped(*mapped_operands(form, case, in_axes))


@st.composite
def mapped_setups(draw):
    """As `setups`, with mapped axes that are sharded too."""
    form = draw(st.sampled_from(["carafe", "reassemble"]))
    case = draw(st.sampled_from(CASES))
    sizes = draw(st.sampled_from(MESHES))
    in_axes = draw(st.sampled_from([(0, 0, 0), (0, None, 0), (None, 0, 0)]))
    over_mapped = draw(specs((MAPPED,), sizes))
    others = [axis for axis in AXES if axis not in jax.tree.leaves(tuple(over_mapped))]
    shapes = case.x_shape, second_shape(form, case), case.y_shape
    operand_specs = [
        P(*(over_mapped if axis == 0 else ()), *draw(specs(shape, sizes, others)))
        for shape, axis in zip(shapes, in_axes, strict=True)
    ]
    max_batch = draw(st.sampled_from([1, 3, MAPPED * case.batch]))
    return form, case, sizes, in_axes, operand_specs, max_batch


def assert_vmap_equals_one_device(setup):
    form, case, sizes, in_axes, operand_specs, max_batch = setup
    mesh = mesh_of(sizes, AxisType.Explicit)
    sharded = [
        jax.device_put(array, NamedSharding(mesh, spec))
        for array, spec in zip(mapped_operands(form, case, in_axes), operand_specs, strict=True)
    ]
    fold = functools.partial(folded, max_batch=max_batch)
    with (
        stand_ins(),
        mock.patch.object(calls, "folded", lambda function, max_batch: fold(function)),
        jax.sharding.set_mesh(mesh),
    ):
        actual = jax.jit(jax.vmap(run(form, case, "stand_ins"), in_axes))(*sharded)
    for value, desired in zip(actual, expected_of_vmap(form, case, in_axes), strict=True):
        np.testing.assert_allclose(value, desired, rtol=1e-5, atol=1e-5)


@settings(max_examples=3)
@given(setup=mapped_setups())
def test_kernels_under_vmap_equal_one_device(setup):
    assert_vmap_equals_one_device(setup)


@pytest.mark.slow
@settings(max_examples=40)
@given(setup=mapped_setups())
def test_kernels_under_vmap_equal_one_device_for_more_shardings(setup):
    assert_vmap_equals_one_device(setup)


@each_axis_type
def test_gradients_with_sharded_rows_and_replicated_weights(axis_type):
    setup = "reassemble", CASES[0], (1, 4), [P(None, "b"), P()]
    with stand_ins():
        assert_equals_one_device(setup, axis_type, "stand_ins")
    assert_equals_one_device(setup, axis_type, "xla")
