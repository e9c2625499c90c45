import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from carafe_kernels import mosaic_gpu
from carafe_kernels.geometry import Geometry
from carafe_kernels.plan import Plan

import carafe_jax
from tests.kernels.cases import Case
from tests.kernels.errors import naming
from tests.kernels.from_logits import carafe_and_gradients, random_map_logits_and_cotangent

# One element more than 32-bit indices can address.
LARGE = (1, 2**15, 2**14, 4)


def reason(geometry, *, dtype="float32", weights_dtype=None, normalizer=None, shape=(2, 8, 8, 64)):
    """Why the kernels refuse a call."""
    dtypes = np.dtype(dtype), np.dtype(weights_dtype or dtype)
    plan = Plan(geometry, shape[1:3], *dtypes, normalizer, "mosaic_gpu")
    return mosaic_gpu.IMPLEMENTATION.supports(plan, shape)


def test_unsupported_scales_kernels_dtypes_and_shapes_have_a_reason():
    assert reason(Geometry(5, 2)) is None
    assert reason(Geometry(5, 4, 2)) is None
    assert "not by 3 / 2" in reason(Geometry(5, 3, 2))
    assert "kernel_size in (1, 3, 5, 7)" in reason(Geometry(9, 2))
    assert "down in (1, 2, 3)" in reason(Geometry(5, 1, 4))
    assert "not from float64" in reason(Geometry(5, 2), dtype="float64")
    assert "not from float64" in reason(Geometry(5, 2), weights_dtype="float64")
    assert "lowest terms" in reason(Geometry(5, 4, 2), normalizer="softmax")
    assert reason(Geometry(7, 4, groups=32)) == (
        f"{Geometry(7, 4, groups=32)} needs more shared memory than a block has"
    )
    (batch,) = jax.export.symbolic_shape("b")
    assert "static shape" in reason(Geometry(5, 2), shape=(batch, 8, 8, 64))


def test_arrays_too_large_for_32_bit_indices_are_refused():
    assert math.prod(LARGE) == 2**31
    assert re.search(
        naming("x", "2,147,483,648", "2,147,483,647"),
        reason(Geometry(5, 1, 2), dtype=jnp.bfloat16, shape=LARGE),
    )
    quarter = (1, 2**15, 2**12, 4)
    assert reason(Geometry(3, 2), dtype=jnp.bfloat16, shape=quarter).startswith(
        "y has 2,147,483,648"
    )
    thin = (1, 2**14, 2**13, 1)
    assert reason(Geometry(3, 2), dtype=jnp.bfloat16, shape=thin).startswith(
        "weights has 4,831,838,208"
    )


@pytest.mark.parametrize("normalizer", [None, "softmax"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("geometry", [Geometry(7, 4), Geometry(7, 3), Geometry(5, 2)], ids=str)
def test_a_supported_call_is_supported_with_fewer_channels(geometry, dtype, normalizer):
    """If channels are sharded, each device calls the kernels with fewer channels."""
    options = {"dtype": dtype, "normalizer": normalizer}
    served = [
        reason(geometry, **options, shape=(2, 16, 16, channels)) is None
        for channels in (1, 4, 8, 32, 256)
    ]
    assert served == sorted(served, reverse=True)


def test_a_named_implementation_raises_the_reason():
    x, weights = jnp.ones((1, 4, 4, 2)), jnp.ones((1, 6, 6, 9))
    with pytest.raises(NotImplementedError, match=r"'mosaic_gpu'.* not by 3 / 2"):
        carafe_jax.reassemble(x, weights, kernel_size=3, up=3, down=2, implementation="mosaic_gpu")


@pytest.mark.parametrize(
    ("slot", "shape"), [("weights", (2, 8, 7, 9)), ("y", (2, 4, 4, 2)), ("y", (1, 8, 8, 2))]
)
def test_operands_that_do_not_fit_the_plan_are_refused(slot, shape):
    plan = Plan(Geometry(3, 2), (4, 4), *[jnp.dtype("float32")] * 2, None, "mosaic_gpu")
    operands = {"x": (2, 4, 4, 2), "weights": (2, 8, 8, 9), "y": (2, 8, 8, 2), slot: shape}
    with pytest.raises(ValueError, match=naming(slot, "shape", shape)):
        mosaic_gpu.IMPLEMENTATION.contract(
            plan, ("x", "weights"), {name: jnp.ones(shape) for name, shape in operands.items()}
        )


@pytest.mark.parametrize("scale", [{"up": 2}, {"down": 2}])
def test_an_empty_batch_gives_an_empty_result(scale):
    case = Case(3, **scale, batch=0)
    operands = random_map_logits_and_cotangent(case, "float32")
    with mosaic_gpu.interpreted():
        outputs = carafe_and_gradients(case, "softmax", "mosaic_gpu")(*operands)
    assert [out.shape for out in outputs] == [case.y_shape, case.x_shape, case.logits_shape]
