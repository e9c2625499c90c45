"""The portable implementation on a CPU with few cores, where gradients are loops over blocks."""

import math
import os
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from carafe_kernels import xla

from tests.kernels.cases import Case
from tests.kernels.operator_base import SCALES, OperatorTests, each_scale
from tests.kernels.sharding import each_axis_type

# Settings with the smallest blocks, and with loops for maps of all sizes.
LOOPS = {
    "loops": True,
    "block_bytes": 1,
    "min_summed_channels": 1,
    "max_read_bytes": 0,
    "max_padded_bytes": 0,
    "min_share_inside": 0.0,
}
CASE = Case(5, up=2, size=(13, 6))


@pytest.fixture
def one_cpu(monkeypatch):
    """Pretends that the process has one device; the process of these tests has several."""
    monkeypatch.setattr(jax, "device_count", lambda platform: 1)
    return monkeypatch


def gradients(case):
    """`(x, weights, dy) -> (dx, dw)`."""

    def run(x, weights, dy):
        def operator(x, weights):
            return IN_LOOPS.operator(case)(x, weights)

        return jax.vjp(operator, x, weights)[1](dy)

    return run


def loops_in(text):
    return text.count("stablehlo.while")


@pytest.mark.slow
class TestXlaInLoops(OperatorTests):
    implementation = "xla"

    @pytest.fixture(autouse=True)
    def in_loops(self):
        with xla.using(**LOOPS):
            yield


IN_LOOPS = TestXlaInLoops()


# Rows of cells per block: 2 and 1; 2 and 2; 3 and 2; 3, 3 and 1; 3, 3, 3 and 2.
@pytest.mark.parametrize("height", [3, 4, 5, 7, 11])
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_the_oracle_for_blocks_that_do_not_divide_the_map(height, batch):
    case = Case(3, up=2, size=(height, 3), batch=batch)
    with xla.using(**LOOPS):
        IN_LOOPS.assert_equals_oracle(case, case.random_operands())


@pytest.mark.parametrize("case", [*SCALES, Case(5, down=2, groups=3, size=(7, 9))], ids=str)
def test_equals_the_oracle_at_every_scale(case):
    with xla.using(**LOOPS):
        IN_LOOPS.assert_equals_oracle(case, case.random_operands())


@pytest.mark.parametrize("batch", [0, 1])
def test_a_batch_may_be_empty(batch):
    case = Case(3, up=2, batch=batch)
    with xla.using(**LOOPS):
        IN_LOOPS.assert_equals_oracle(case, case.random_operands())


def test_second_derivatives_equal_the_oracle():
    with xla.using(**LOOPS):
        IN_LOOPS.test_gradient_penalty_equals_the_oracle(SCALES[0])


@each_scale
@each_axis_type
def test_arrays_on_a_mesh_of_one_device(case, axis_type):
    mesh = jax.make_mesh((1,), ("one",), axis_types=(axis_type,), devices=jax.devices()[:1])
    spec = jax.sharding.PartitionSpec("one")
    run = gradients(case)
    operands = case.random_operands()
    with xla.using(**LOOPS):
        sharded = jax.device_put(operands, jax.sharding.NamedSharding(mesh, spec))
        IN_LOOPS.assert_all_close(jax.jit(run)(*sharded), jax.jit(run)(*operands))
        mapped = jax.shard_map(run, mesh=mesh, in_specs=spec, out_specs=spec)
        IN_LOOPS.assert_all_close(jax.jit(mapped)(*sharded), jax.jit(run)(*operands))


def test_gradients_are_loops_on_a_cpu_only():
    shapes = CASE.operands(lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32))
    with xla.using(**LOOPS):
        traced = jax.jit(gradients(CASE)).trace(*shapes)
        assert loops_in(traced.lower(lowering_platforms=("cpu",)).as_text()) == 2
        for platform in ("cuda", "rocm", "tpu"):
            assert not loops_in(traced.lower(lowering_platforms=(platform,)).as_text())


@pytest.mark.parametrize(("mapped", "loops"), [("x weights dy", 2), ("x dy", 1), ("weights dy", 1)])
def test_vmap_folds_mapped_operands_into_the_batch(mapped, loops):
    """A contraction is one loop over images if both of its operands are mapped."""
    run = gradients(CASE)
    examples = [CASE.random_operands(seed=seed) for seed in range(2)]
    in_axes = [0 if name in mapped.split() else None for name in ("x", "weights", "dy")]
    operands = [
        array if axis is None else np.stack([array, other])
        for array, other, axis in zip(*examples, in_axes, strict=True)
    ]
    with xla.using(**LOOPS):
        mapped_run = jax.jit(jax.vmap(run, in_axes))
        assert loops_in(mapped_run.lower(*operands).as_text()) == loops
        actual = mapped_run(*operands)
        for i in range(2):
            one = [a if axis is None else a[i] for a, axis in zip(operands, in_axes, strict=True)]
            for gradients_of_both, each in zip(actual, jax.jit(run)(*one), strict=True):
                np.testing.assert_allclose(gradients_of_both[i], each, rtol=1e-6, atol=1e-5)


def test_nested_vmaps_equal_one_call_per_example():
    run = gradients(CASE)
    operands = [np.stack([[array, -array]]) for array in CASE.random_operands()]
    with xla.using(**LOOPS):
        actual = jax.jit(jax.vmap(jax.vmap(run)))(*operands)
        expected = jax.jit(run)(*(array[0, 1] for array in operands))
    for gradients_of_all, each in zip(actual, expected, strict=True):
        np.testing.assert_allclose(gradients_of_all[0, 1], each, rtol=1e-6, atol=1e-5)


def test_a_symbolic_batch_has_no_loops_and_equals_a_static_one():
    (b,) = jax.export.symbolic_shape("b")
    with xla.using(**LOOPS):
        shapes = CASE.operands(lambda shape: jax.ShapeDtypeStruct((b, *shape[1:]), jnp.float32))
        exported = jax.export.export(jax.jit(gradients(CASE)))(*shapes)
        operands = CASE.random_operands()
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-5),
            list(exported.call(*operands)),
            list(jax.jit(gradients(CASE))(*operands)),
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_temporaries_of_loops_are_a_fraction_of_the_operands(dtype):
    case = Case(5, up=2, size=(32, 32), batch=16, group_channels=64)
    shapes = case.operands(lambda shape: jax.ShapeDtypeStruct(shape, dtype))
    with xla.using(loops=True, max_read_bytes=0):
        compiled = jax.jit(gradients(case)).lower(*shapes).compile()
    own = sum(shape.size * shape.dtype.itemsize for shape in shapes)
    assert compiled.memory_analysis().temp_size_in_bytes < own / 4


def test_both_gradients_share_the_cotangent_of_a_loss():
    """The loss adds one array of the output's size to the temporaries, not two.

    The weight gradient is a loop, the input gradient is not.
    """
    case = Case(5, up=2, size=(50, 50), batch=1, group_channels=256)
    shapes = case.operands(lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32))

    def temporary_bytes(function):
        with xla.using(loops=True):
            lowered = jax.jit(function).lower(*shapes)
        assert loops_in(lowered.as_text()) == 1  # the weight gradient
        return lowered.compile().memory_analysis().temp_size_in_bytes

    def loss(x, weights, other):
        return jnp.mean((IN_LOOPS.operator(case)(x, weights) - other) ** 2)

    cotangent = 4 * math.prod(case.y_shape)
    with_loss = temporary_bytes(jax.grad(loss, argnums=(0, 1)))
    assert with_loss <= temporary_bytes(gradients(case)) + 1.05 * cotangent


@pytest.mark.parametrize(("group_channels", "step"), [(5, 2), (6, 3), (4, 4), (3, 256)])
def test_channels_summed_in_several_passes_equal_the_oracle(group_channels, step):
    case = Case(3, up=2, groups=2, size=(3, 4), group_channels=group_channels)
    with xla.using(loops=False, channels_at_once=step):
        IN_LOOPS.assert_equals_oracle(case, case.random_operands())


# The settings of a machine


def test_a_process_with_few_cores_has_loops(one_cpu):
    one_cpu.setattr(os, "sched_getaffinity", lambda process: set(range(4)), raising=False)
    assert xla.current_settings().loops
    one_cpu.setattr(os, "sched_getaffinity", lambda process: set(range(5)))
    assert not xla.current_settings().loops
    assert xla.current_settings().channels_at_once


@pytest.mark.parametrize(("cores", "loops"), [(2, True), (8, False), (None, True)])
def test_without_affinity_all_cores_count(one_cpu, cores, loops):
    one_cpu.delattr(os, "sched_getaffinity", raising=False)
    one_cpu.setattr(os, "cpu_count", lambda: cores)
    assert xla.current_settings().loops == loops


def test_several_devices_have_no_loops():
    assert jax.device_count() > 1
    assert xla.current_settings() == xla.Settings()


def test_only_a_cpu_has_loops(one_cpu):
    gpu = types.SimpleNamespace(platform="gpu")
    one_cpu.setattr(jax, "local_devices", lambda backend=None: [gpu])
    assert xla.current_settings() == xla.Settings()
