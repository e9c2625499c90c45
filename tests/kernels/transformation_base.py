"""Tests of the operator under transformations, on several devices and in exports."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.kernels.operator_base import OperatorTests, each_scale, split_over_devices
from tests.kernels.sharding import (
    collectives,
    each_axis_type,
    over_the_batch,
    run_and_collectives,
)
from tests.slow import slow


class TransformationTests(OperatorTests):
    """Tests that an interpreter of kernels cannot run, or runs for minutes."""

    @each_scale
    @pytest.mark.parametrize(
        "mapped", [("x", "weights"), slow(("x",)), slow(("weights",))], ids=" ".join
    )
    def test_vmap_equals_a_loop(self, case, mapped):
        run = jax.jit(self.forward_and_gradients(case))
        x, weights, dy = (
            np.stack(arrays)
            for arrays in zip(*(case.random_operands(seed=seed) for seed in range(3)), strict=True)
        )
        if "x" not in mapped:
            x = x[0]
        if "weights" not in mapped:
            weights = weights[0]
        in_axes = tuple(0 if name in mapped else None for name in ("x", "weights"))
        looped = [
            run(x[i] if "x" in mapped else x, weights[i] if "weights" in mapped else weights, dy[i])
            for i in range(3)
        ]
        looped = jax.tree.map(lambda *leaves: np.stack(leaves), *looped)
        self.assert_all_close(jax.jit(jax.vmap(run, (*in_axes, 0)))(x, weights, dy), looped)

        y, vjp = jax.vjp(jax.jit(jax.vmap(self.operator(case), in_axes)), x, weights)
        gradients = vjp(dy)
        self.assert_all_close(y, looped[0])
        for gradient, each, axis in zip(gradients, looped[1:], in_axes, strict=True):
            self.assert_all_close(gradient, each if axis == 0 else each.sum(axis=0))

    @each_scale
    def test_checkpointed_gradients_are_the_same(self, case):
        x, weights, dy = case.random_operands()
        operator = self.operator(case)

        def gradients(function):
            def loss(x, weights):
                return jnp.sum(dy * jnp.sin(function(x, weights)))

            return jax.jit(jax.grad(loss, argnums=(0, 1)))(x, weights)

        self.assert_all_close(gradients(jax.checkpoint(operator)), gradients(operator))

    @each_scale
    def test_pmap_equals_one_device(self, case):
        case = self.one_example_a_device(case)
        run = self.forward_and_gradients(case)
        operands = case.random_operands()
        split = [split_over_devices(a, jax.local_device_count()) for a in operands]
        mapped = [np.concatenate(out) for out in jax.pmap(run)(*split)]
        self.assert_all_close(mapped, list(jax.jit(run)(*operands)))

    @each_scale
    @each_axis_type
    def test_shard_map_equals_one_device(self, case, axis_type):
        case = self.one_example_a_device(case)
        run = self.forward_and_gradients(case)
        operands = case.random_operands()
        sharding = over_the_batch(axis_type)
        mapped = jax.shard_map(
            run, mesh=sharding.mesh, in_specs=sharding.spec, out_specs=sharding.spec
        )
        sharded = jax.device_put(operands, sharding)
        self.assert_all_close(jax.jit(mapped)(*sharded), jax.jit(run)(*operands))

    @each_scale
    @each_axis_type
    def test_a_sharded_batch_stays_sharded_without_communication(self, case, axis_type):
        case = self.one_example_a_device(case)
        run = jax.jit(self.forward_and_gradients(case))
        operands = case.random_operands()
        sharding = over_the_batch(axis_type)
        sharded = jax.device_put(operands, sharding)
        outputs, moved = run_and_collectives(run, *sharded)
        for out in outputs:
            assert out.sharding.is_equivalent_to(sharding, out.ndim)
        self.assert_all_close(outputs, run(*operands))
        assert not collectives(jax.jit(self.operator(case)), *sharded[:2])
        assert not moved

    @each_scale
    def test_exports_with_a_symbolic_batch_size(self, case):
        exported = self.exported(case)
        for batch in (1, 3):
            operands = dataclasses.replace(case, batch=batch).random_operands()
            self.assert_all_close(
                exported.call(*operands[:2]), jax.jit(self.operator(case))(*operands[:2])
            )

    @each_scale
    def test_serialized_exports_keep_the_symbolic_batch_size_and_the_gradient(self, case):
        blob = self.exported(case).serialize(vjp_order=1)
        restored = jax.export.deserialize(blob)
        for batch in (1, 3):
            x, weights, dy = dataclasses.replace(case, batch=batch).random_operands()
            y, vjp = jax.vjp(restored.call, x, weights)
            expected = jax.jit(self.forward_and_gradients(case))(x, weights, dy)
            self.assert_all_close((y, *vjp(dy)), expected)

    def exported(self, case, **options):
        (b,) = jax.export.symbolic_shape("b")
        shapes = ((b, *shape[1:]) for shape in (case.x_shape, case.weights_shape))
        specs = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
        return jax.export.export(jax.jit(self.operator(case)), **options)(*specs)

    def one_example_a_device(self, case):
        return dataclasses.replace(case, batch=jax.local_device_count())
