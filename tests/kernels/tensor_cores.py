"""Calls that kernels on the tensor cores may serve, without running them."""

import functools

import jax
import jax.numpy as jnp
from carafe_kernels import mosaic_gpu
from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.plan import Plan
from hypothesis import strategies as st

from tests.kernels.mosaic_gpu_lowering import lowered

FLOAT16, BFLOAT16, FLOAT32 = map(jnp.dtype, ("float16", "bfloat16", "float32"))

problems = st.builds(
    Problem,
    geometry=st.builds(
        Geometry,
        kernel_size=st.sampled_from([1, 3, 5]),
        up=st.just(2),
        groups=st.sampled_from([1, 2, 4, 8, 16]),
    ),
    batch=st.just(2),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.integers(1, 40).map(lambda n: 16 * n),
    dtype=st.sampled_from([FLOAT16, BFLOAT16]),
    cells_dtype=st.sampled_from([FLOAT16, BFLOAT16, FLOAT32]),
    normalizer=st.sampled_from([None, "softmax"]),
)


def call_of(geometry, dtype, weights_dtype, result, channels=256, normalizer=None, **options):
    """A contraction, or both gradients, and the shapes of its operands."""
    settings = mosaic_gpu.Settings(**options)
    dtypes = jnp.dtype(dtype), jnp.dtype(weights_dtype)
    plan = Plan(geometry, (25, 42), *dtypes, normalizer, "mosaic_gpu", settings=settings)
    kernels = "weights" if normalizer is None else "logits"
    results, slots = {
        "y": (("y",), ("x", kernels)),
        "x": (("x",), (kernels, "y")),
        "weights": ((kernels,), ("x", "y") if normalizer is None else ("x", kernels, "y")),
        "both": (("x", kernels), ("x", kernels, "y")),
    }[result]
    operands = {
        slot: jax.ShapeDtypeStruct((2, *plan.shape(slot, channels)), plan.dtype(slot))
        for slot in slots
    }
    return functools.partial(mosaic_gpu.IMPLEMENTATION.contract, plan, results), operands


def lowered_text(*arguments, **options):
    return lowered(*call_of(*arguments, **options))
