"""Both gradients by one kernel, which equal the gradients by two kernels to the last bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from carafe_kernels import mosaic_gpu

import carafe_jax
from tests.kernels.cases import Case
from tests.kernels.from_logits import carafe_and_gradients, random_map_logits_and_cotangent
from tests.kernels.interpreter import interpreted
from tests.kernels.mosaic_gpu_lowering import lowered

# Some have more blocks for the input gradient than for the weight gradient, some equally many.
CASES = [
    (Case(3, up=2, size=(3, 9), batch=1), "float32"),
    (Case(1, up=2, size=(2, 3), batch=1, groups=2), "bfloat16"),
    (Case(3, down=2, size=(5, 4), batch=1), "float32"),
    (Case(3, down=2, size=(5, 4), batch=1), "bfloat16"),
    # The weight gradient has four blocks for each tile of cells.
    (Case(5, up=4, size=(2, 2), batch=1), "bfloat16"),
]


def reassemble_and_gradients(case):
    operator = functools.partial(carafe_jax.reassemble, implementation="mosaic_gpu", **case.options)

    def run(x, weights, dy):
        y, vjp = jax.vjp(operator, x, weights)
        return y, *vjp(dy)

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("case", "dtype"), CASES, ids=str)
def test_one_kernel_equals_two_kernels(case, dtype):
    weights, logits = (
        (reassemble_and_gradients(case), case.random_operands()),
        (
            carafe_and_gradients(case, "softmax", "mosaic_gpu"),
            random_map_logits_and_cotangent(case, dtype),
        ),
    )
    for run, operands in (weights, logits):
        arrays = [jnp.asarray(operand, dtype) for operand in operands]
        with interpreted():
            by_two = jax.jit(run)(*arrays)
            with mosaic_gpu.using(gradients="together"):
                # A new function, because JAX would reuse the trace of `run` with its settings.
                by_one = jax.jit(lambda *arrays, run=run: run(*arrays))(*arrays)
        for one, two in zip(by_one, by_two, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("form", ["reassemble", "carafe"])
def test_both_gradients_are_one_kernel(form):
    case = Case(3, up=2, size=(24, 20), group_channels=64)
    run = (
        reassemble_and_gradients(case)
        if form == "reassemble"
        else carafe_and_gradients(case, "softmax", "mosaic_gpu")
    )
    kernels = case.weights_shape if form == "reassemble" else case.logits_shape
    shapes = [jax.ShapeDtypeStruct(s, "float32") for s in (case.x_shape, kernels, case.y_shape)]
    with mosaic_gpu.using(gradients="together"):
        text = lowered(run, *shapes)
    calls = [line for line in text.splitlines() if "custom_call @mosaic_gpu" in line]
    assert len(calls) == 2
    assert [
        sum(name in line for line in calls) for name in ("carafe_forward", "carafe_gradients")
    ] == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["reassemble", "carafe"])
def test_second_derivatives_equal_those_of_xla(form):
    case = Case(1, up=2, size=(2, 3), batch=1)
    kernels = case.weights_shape if form == "reassemble" else case.logits_shape
    rng = np.random.default_rng(0)
    x, kernels, d = (
        rng.standard_normal(s).astype("f") for s in (case.x_shape, kernels, case.y_shape)
    )

    def penalty(implementation):
        operator = functools.partial(
            getattr(carafe_jax, form), implementation=implementation, **case.options
        )

        def loss(x, kernels):
            gradients = jax.grad(
                lambda *operands: jnp.vdot(d, jnp.sin(operator(*operands))), argnums=(0, 1)
            )(x, kernels)
            return sum(jnp.sum(gradient**2) for gradient in gradients)

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(x, kernels)

    with interpreted(), mosaic_gpu.using(gradients="together"):
        actual = penalty("mosaic_gpu")
    for value, desired in zip(actual, penalty("xla"), strict=True):
        np.testing.assert_allclose(value, desired, rtol=1e-4, atol=1e-4)
