"""Downsampling on a CPU without a padded copy of the map: inner outputs, then the border."""

import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from carafe_kernels import xla
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.kernels.cases import Case
from tests.kernels.operator_base import OperatorTests

# Settings that compute maps of all sizes in parts.
IN_PARTS = {"loops": True, "min_summed_channels": 1, "max_padded_bytes": 0, "min_share_inside": 0.0}
CASE = Case(5, down=2, groups=2, size=(13, 16))
TALL = Case(5, down=2, size=(100, 100), batch=1, group_channels=256)


class Operator(OperatorTests):
    """The helper functions of `OperatorTests`, without its tests."""

    __test__ = False
    implementation = "xla"


def shapes_of(case, dtype="float32"):
    return case.operands(lambda shape: jax.ShapeDtypeStruct(shape, dtype))[:2]


def run(case):
    return Operator().operator(case)


def parts_in(text):
    """The number of parts that a program writes into its result."""
    return text.count("stablehlo.dynamic_update_slice")


def parts(case, dtype="float32"):
    return parts_in(jax.jit(run(case)).lower(*shapes_of(case, dtype)).as_text())


sides = st.integers(1, 12)


@settings(max_examples=10)
@given(
    case=st.builds(
        Case,
        kernel_size=st.sampled_from([1, 3, 5, 7]),
        down=st.integers(2, 5),
        groups=st.integers(1, 2),
        size=st.tuples(sides, sides),
        batch=st.integers(0, 2),
    )
)
@example(Case(3, down=4, size=(16, 16)))  # no cell lacks a source below it
@example(Case(7, down=2, size=(3, 12)))  # no row of cells has all of its sources
@example(Case(1, down=2, size=(5, 5)))  # no border
@example(Case(3, up=2, down=4, size=(9, 9)))  # not in lowest terms
def test_equals_the_oracle(case):
    with xla.using(**IN_PARTS):
        Operator().assert_equals_oracle(case, case.random_operands())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_equals_the_whole_computation_to_the_last_bit(dtype):
    operands = jax.tree.map(lambda a: jnp.asarray(a, dtype), CASE.random_operands()[:2])
    whole = jax.jit(run(CASE))(*operands)
    with xla.using(**IN_PARTS):
        np.testing.assert_array_equal(jax.jit(run(CASE))(*operands), whole)


def test_nan_in_the_map_reaches_only_outputs_that_read_it():
    with xla.using(**IN_PARTS):
        Operator().test_nan_in_the_map_reaches_only_outputs_that_read_it(CASE)


def test_parts_are_for_cpus_only():
    with xla.using(**IN_PARTS):
        traced = jax.jit(run(CASE)).trace(*shapes_of(CASE))
        assert parts_in(traced.lower(lowering_platforms=("cpu",)).as_text()) == 5
        for platform in ("cuda", "rocm", "tpu"):
            assert not parts_in(traced.lower(lowering_platforms=(platform,)).as_text())


@pytest.mark.parametrize(
    ("case", "dtype", "expected"),
    [
        (TALL, "float32", 5),
        (TALL, "bfloat16", 5),
        (Case(7, down=2, size=(100, 100), batch=1, group_channels=256), "float32", 5),
        # With few channels, the weight gradient copies the whole map.
        (Case(5, down=2, size=(100, 100), batch=16, group_channels=32), "float32", 0),
        # Two passes would convert the map twice.
        (Case(7, down=2, size=(100, 100), batch=1, group_channels=256), "bfloat16", 0),
        # A small map, and a map with a large share of border.
        (Case(5, down=2, size=(100, 100), batch=1, group_channels=1), "float32", 0),
        (Case(5, down=2, size=(28, 28), batch=4, group_channels=1024), "float32", 0),
        # The map is no larger than the result.
        (Case(5, up=2, size=(100, 100), batch=1, group_channels=256), "float32", 0),
        (Case(5, up=3, down=2, size=(100, 100), batch=1, group_channels=256), "float32", 0),
        (Case(5, size=(100, 100), batch=1, group_channels=256), "float32", 0),
    ],
    ids=str,
)
def test_large_maps_are_in_parts(case, dtype, expected, monkeypatch):
    # The process of these tests has several devices; pretend that it has one, and few cores.
    monkeypatch.setattr(jax, "device_count", lambda platform: 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    assert parts(case, dtype) == expected


def test_several_devices_have_no_parts():
    assert jax.device_count() > 1
    assert not parts(TALL)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_temporaries_are_a_fraction_of_the_operands(dtype):
    shapes = shapes_of(TALL, dtype)
    with xla.using(**IN_PARTS):
        compiled = jax.jit(run(TALL)).lower(*shapes).compile()
    own = sum(map(math.prod, TALL.operands(tuple))) * jnp.dtype(dtype).itemsize
    assert compiled.memory_analysis().temp_size_in_bytes < own / 2


@pytest.mark.parametrize(("mapped", "expected"), [("x weights", 5), ("x", 0), ("weights", 0)])
def test_vmap_folds_mapped_operands_into_the_batch(mapped, expected):
    """The result is computed in parts if both operands are mapped."""
    operands = CASE.random_operands()[:2]
    in_axes = [0 if name in mapped.split() else None for name in ("x", "weights")]
    stacked = [
        array if axis is None else np.stack([array, -array])
        for array, axis in zip(operands, in_axes, strict=True)
    ]
    signs = [1 if axis is None else -1 for axis in in_axes]
    with xla.using(**IN_PARTS):
        function = jax.jit(jax.vmap(run(CASE), in_axes))
        assert parts_in(function.lower(*stacked).as_text()) == expected
        actual = function(*stacked)
        one = jax.jit(run(CASE))(*operands)
    np.testing.assert_allclose(actual, [one, np.prod(signs) * one], rtol=1e-6, atol=1e-5)


def test_a_symbolic_batch_has_no_parts_and_equals_a_static_one():
    (b,) = jax.export.symbolic_shape("b")
    with xla.using(**IN_PARTS):
        shapes = [jax.ShapeDtypeStruct((b, *s.shape[1:]), s.dtype) for s in shapes_of(CASE)]
        exported = jax.export.export(jax.jit(run(CASE)))(*shapes)
        operands = CASE.random_operands()[:2]
        expected = jax.jit(run(CASE))(*operands)
    assert not parts_in(exported.mlir_module())
    np.testing.assert_allclose(exported.call(*operands), expected, rtol=1e-6, atol=1e-5)


def test_gradients_do_not_depend_on_the_parts():
    def gradients(x, weights, dy):
        return jax.vjp(run(CASE), x, weights)[1](dy)

    operands = CASE.random_operands()
    with xla.using(**{**IN_PARTS, "max_padded_bytes": None}):
        expected = jax.jit(gradients)(*operands)
    with xla.using(**IN_PARTS):
        for actual, same in zip(jax.jit(gradients)(*operands), expected, strict=True):
            np.testing.assert_array_equal(actual, same)
