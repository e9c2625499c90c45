import collections
import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import pytest

from tests.kernels.cases import Case
from tests.kernels.operator_base import SCALES
from tests.kernels.transformation_base import TransformationTests

UP = Case(5, up=2, size=(50, 50), batch=1, group_channels=256)
DOWN = Case(5, down=2, size=(100, 100), batch=1, group_channels=256)
FLOAT_SIZE = 4


def products(compiled):
    """The number of multiplications in a program; a contraction has at least one for each tap."""
    return compiled.as_text().count(" multiply(")


class TestXla(TransformationTests):
    implementation = "xla"

    def compiled(self, case, *, gradient):
        shapes = case.operands(lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32))
        if gradient:
            return jax.jit(self.forward_and_gradients(case)).lower(*shapes).compile()
        return jax.jit(self.operator(case)).lower(*shapes[:2]).compile()

    @pytest.mark.parametrize(
        ("case", "gradient", "limit"),
        [
            (UP, False, 0.5),
            (UP, True, 1.3),
            (DOWN, False, 1),
            (DOWN, True, 1.3),
            # Two passes read the same padded copy.
            (dataclasses.replace(UP, kernel_size=3), True, 1.3),
            (dataclasses.replace(DOWN, kernel_size=7), True, 1.3),
        ],
        ids=str,
    )
    def test_temporaries_are_small_and_hold_no_patches(self, case, gradient, limit):
        compiled = self.compiled(case, gradient=gradient)
        operands = FLOAT_SIZE * sum(case.operands(math.prod))
        assert compiled.memory_analysis().temp_size_in_bytes <= limit * operands
        shapes = re.findall(r"f32\[([\d,]+)\]", compiled.as_text())
        largest = max(math.prod(map(int, shape.split(","))) for shape in shapes)
        assert largest < case.kernel_size**2 * math.prod(case.x_shape) / 2

    @pytest.mark.parametrize("case", SCALES, ids=str)
    def test_lowers_for_every_platform(self, case):
        exported = self.exported(case, platforms=["cpu", "cuda", "rocm", "tpu"])
        assert exported.platforms == ("cpu", "cuda", "rocm", "tpu")

    def stored(self, case, platform, *, dtype=jnp.float32, gradients=False):
        """The number of barriers for each shape in float32, in a program for a platform."""
        operator = self.operator(case)
        x, weights, dy = case.operands(lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32))
        shapes = x.update(dtype=dtype), weights, dy.update(dtype=dtype)
        if gradients:  # alone, because they do not use the result of the forward pass
            traced = jax.jit(lambda x, w, dy: jax.vjp(operator, x, w)[1](dy)).trace(*shapes)
        else:
            traced = jax.jit(operator).trace(*shapes[:2])
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        found = re.findall(r"optimization_barrier .*tensor<([\dx]+)xf32>", text)
        return collections.Counter(tuple(map(int, shape.split("x"))) for shape in found)

    @pytest.mark.parametrize("case", [UP, DOWN], ids=["up", "down"])
    @pytest.mark.parametrize("platform", ["cuda", "rocm"])
    def test_a_gpu_computes_weights_before_it_splits_them_by_tap(self, case, platform):
        """Otherwise XLA computes their normaliser in a kernel for each tap."""
        assert self.stored(case, platform)[case.weights_shape] == 1
        # The weights, for the gradient of the map, and their own gradient.
        assert self.stored(case, platform, gradients=True)[case.weights_shape] == 2

    @pytest.mark.parametrize("platform", ["cuda", "rocm"])
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
    def test_a_gpu_reads_a_padded_copy_of_a_map_to_upsample(self, platform, dtype):
        """Otherwise it reads one channel at a time, and checks the border at each tap."""
        batch, height, width, channels = UP.x_shape
        border = UP.kernel_size - 1
        copy = (batch, height + border, width + border, channels)
        assert self.stored(UP, platform, dtype=dtype) == {UP.weights_shape: 1, copy: 1}
        assert self.stored(UP, platform, dtype=dtype, gradients=True)[copy] == 1

    @pytest.mark.parametrize(
        "case",
        [
            dataclasses.replace(UP, kernel_size=1),
            dataclasses.replace(UP, up=1),
            dataclasses.replace(UP, up=3, down=2),
            DOWN,
        ],
        ids=str,
    )
    def test_a_gpu_copies_no_other_map(self, case):
        """The copy would have no border, or be as large as the output, or not be read faster."""
        assert self.stored(case, "cuda") == {case.weights_shape: 1}

    @pytest.mark.parametrize("case", [UP, DOWN], ids=["up", "down"])
    @pytest.mark.parametrize("platform", ["cpu", "tpu"])
    def test_weights_are_not_stored_elsewhere(self, case, platform):
        assert case.weights_shape not in self.stored(case, platform)

    @pytest.mark.parametrize("case", [UP, DOWN], ids=["up", "down"])
    @pytest.mark.parametrize("activation", [jax.nn.relu, jnp.tanh, jnp.square])
    def test_the_gradient_of_an_activation_repeats_no_contraction(self, case, activation):
        """It has as many multiplications as the forward pass and both gradients together."""
        operator = self.operator(case)

        def loss(x, weights, dy):
            return jnp.sum(dy * activation(operator(x, weights)))

        shapes = case.operands(lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32))
        activated = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*shapes).compile()
        once = products(self.compiled(case, gradient=True))
        assert once >= 3 * case.kernel_size**2
        assert products(activated) <= once + 20  # the activation has some of its own
