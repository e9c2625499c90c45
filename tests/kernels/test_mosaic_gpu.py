import dataclasses
import functools
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from carafe_kernels import mosaic_gpu
from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu import blocks
from carafe_kernels.mosaic_gpu.tiling import (
    SHARED_MEMORY,
    THREADS,
    Problem,
    TooLargeError,
    forward_tile,
    input_gradient_tile,
    is_one_piece,
    weight_gradient_tile,
)
from carafe_kernels.normalizers import NORMALIZERS, tap_logit_gradients, tap_weights
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.sharding import AxisType

import carafe_jax
from tests.kernels import oracle
from tests.kernels.cases import Case
from tests.kernels.interpreter import RaceError, interpreted
from tests.kernels.mosaic_gpu_lowering import lowered, tensor_sizes
from tests.kernels.operator_base import OperatorTests
from tests.kernels.sharding import each_axis_type, over_the_batch

pytestmark = pytest.mark.interpreted

# The 2**31 - 1 elements that indices reach, and shapes around it.
LARGE = (1, 2**15, 2**14, 4)


@pytest.mark.slow
class TestMosaicGpu(OperatorTests):
    """The kernels in an interpreter that looks for races."""

    implementation = "mosaic_gpu"
    factors = (1, 2, 3)
    dtypes = ("float16", "bfloat16", "float32")
    small_examples = 3
    examples = 3

    @pytest.fixture(autouse=True)
    def interpreter(self):
        with interpreted():
            yield

    def supports(self, case):
        divisor = math.gcd(case.up, case.down)
        up, down = case.up // divisor, case.down // divisor
        return min(up, down) == 1 and down <= 3 and case.batch > 0


# Kernels that normalise by themselves

FUSED = [
    (Case(3, up=2, size=(3, 4), batch=1), "softmax", "float32"),
    (Case(3, up=2, size=(5, 3), groups=2, batch=1), "sigmoid", "bfloat16"),
    (Case(3, up=3, size=(3, 2)), "sigmoid_normalized", "float16"),
    (Case(3, up=4, size=(2, 3), batch=1), "softmax", "bfloat16"),
    (Case(5, down=2, size=(7, 8)), "softmax", "bfloat16"),
    (Case(5, down=2, size=(5, 6), groups=2, batch=1), "sigmoid_normalized", "float32"),
    (Case(3, down=3, size=(8, 7), batch=1), "sigmoid", "float32"),
]


def random_map_logits_and_cotangent(case, dtype):
    rng = np.random.default_rng(0)
    shapes = case.x_shape, case.logits_shape, case.y_shape
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def carafe_and_gradients(case, normalizer, implementation):
    """`(x, logits, dy) -> (y, dx, dlogits)`."""
    operator = functools.partial(
        carafe_jax.carafe, normalizer=normalizer, implementation=implementation, **case.options
    )

    def run(x, logits, dy):
        y, vjp = jax.vjp(operator, x, logits)
        return y, *vjp(dy)

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("case", "normalizer", "dtype"), FUSED, ids=str)
def test_logits_are_normalised_in_the_kernel(case, normalizer, dtype):
    operands = random_map_logits_and_cotangent(case, dtype)
    with interpreted(), mock.patch.object(mosaic_gpu, "forward", None):  # not the plain kernel
        actual = jax.jit(carafe_and_gradients(case, normalizer, "mosaic_gpu"))(*operands)
    x, logits, dy = (np.float64(operand) for operand in operands)
    weights = oracle.kernels(logits, case.size, normalizer, **case.options)
    y = oracle.reassemble(x, weights, **case.options)
    dx = oracle.input_gradient(weights, dy, case.size, **case.options)
    with jax.enable_x64(True):
        _, _, dlogits = carafe_and_gradients(case, normalizer, "xla")(x, logits, dy)
    for value, desired in zip(actual, (y, dx, dlogits), strict=True):
        assert value.dtype == dtype
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(np.float64(value), desired, rtol=max(eps, 1e-5), atol=1e-5)


@pytest.mark.slow
def test_second_derivatives_by_logits_equal_those_of_xla():
    case = Case(3, up=2, size=(3, 2), batch=1)
    operands = random_map_logits_and_cotangent(case, "float32")

    def penalty(implementation):
        run = carafe_and_gradients(case, "softmax", implementation)
        return jax.jit(
            jax.grad(
                lambda *operands: sum(jnp.sum(part**2) for part in run(*operands)),
                argnums=(0, 1, 2),
            )
        )

    with interpreted():
        actual = penalty("mosaic_gpu")(*operands)
    for value, desired in zip(actual, penalty("xla")(*operands), strict=True):
        np.testing.assert_allclose(value, desired, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_vmap_is_a_loop():
    case = Case(1, down=2, size=(5, 4), batch=1)
    x, logits, dy = random_map_logits_and_cotangent(case, "float32")
    several = [jnp.stack([array, 2 * array, -array]) for array in (x, dy)]
    run = carafe_and_gradients(case, "softmax", "mosaic_gpu")
    with interpreted():
        mapped = jax.jit(jax.vmap(run, (0, None, 0)))(several[0], logits, several[1])
        looped = [jax.jit(run)(x, logits, dy) for x, dy in zip(*several, strict=True)]
    for value, *others in zip(mapped, *looped, strict=True):
        np.testing.assert_allclose(value, np.stack(others), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_gradients_are_deterministic_to_the_last_bit():
    case = Case(3, up=2, size=(4, 5), group_channels=24)
    operands = random_map_logits_and_cotangent(case, "float32")
    with interpreted():
        run = jax.jit(carafe_and_gradients(case, "softmax", "mosaic_gpu"))
        first, second = run(*operands), run(*operands)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "dtype"),
    [(3, "bfloat16"), (16, "float32"), (24, "bfloat16"), (100, "float32"), (100, "bfloat16")],
)
def test_any_number_of_channels(channels, dtype):
    """Those that fill no tile, that no copy can address, and that take several steps."""
    case = Case(3, up=2, size=(2, 3), batch=1, group_channels=channels)
    operands = random_map_logits_and_cotangent(case, dtype)
    with interpreted():
        actual = jax.jit(carafe_and_gradients(case, "softmax", "mosaic_gpu"))(*operands)
    desired = carafe_and_gradients(case, "softmax", "xla")(*operands)
    eps = float(jnp.finfo(dtype).eps)
    for value, other in zip(actual, desired, strict=True):
        np.testing.assert_allclose(
            np.float64(value), np.float64(other), rtol=2 * eps, atol=64 * eps
        )


@pytest.mark.slow
def test_a_pullback_runs_as_its_forward_pass_did():
    case = Case(1, up=2, size=(2, 3), batch=1)
    x, weights, dy = case.random_operands()
    operator = functools.partial(carafe_jax.reassemble, implementation="mosaic_gpu", **case.options)
    with interpreted():
        _, pullback = jax.vjp(operator, x, weights)
    dx, dw = pullback(dy)
    np.testing.assert_allclose(
        dx, oracle.input_gradient(weights, dy, case.size, **case.options), rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(
        dw, oracle.weight_gradient(x, dy, **case.options), rtol=1e-6, atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("scale", [{"up": 2}, {"down": 2}])
def test_one_column(scale):
    case = Case(3, **scale, size=(4, 1), batch=1)
    x, logits, dy = random_map_logits_and_cotangent(case, "float32")
    run = carafe_and_gradients(case, "softmax", "mosaic_gpu")
    with interpreted():
        actual = jax.jit(run)(x, logits, dy)
    desired = carafe_and_gradients(case, "softmax", "xla")(x, logits, dy)
    for value, other in zip(actual, desired, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-6)


# Races


@pytest.mark.parametrize("missing", ["barrier_wait", "commit_smem"])
def test_a_missing_barrier_is_found(missing):
    case = Case(1, up=2, size=(2, 3), batch=1, group_channels=40)
    x, weights, _ = case.random_operands()
    skip = mock.patch.object(plgpu, missing)
    with pytest.raises((RaceError, RuntimeError), match=r"(?i)race"), interpreted(), skip:
        carafe_jax.reassemble(x, weights, implementation="mosaic_gpu", **case.options)


@pytest.mark.parametrize("scale", [{"up": 2}, {"down": 2}])
def test_equals_xla(scale):
    case = Case(1, **scale, size=(3, 4), batch=1)
    operands = random_map_logits_and_cotangent(case, "float32")
    with interpreted():
        actual = carafe_and_gradients(case, "sigmoid", "mosaic_gpu")(*operands)
    desired = carafe_and_gradients(case, "sigmoid", "xla")(*operands)
    for value, other in zip(actual, desired, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-6, atol=1e-6)


# Lowering for GPUs that are not there


def shapes(case, dtype, of_weights=False):
    kernels = case.weights_shape if of_weights else case.logits_shape
    return [jax.ShapeDtypeStruct(s, dtype) for s in (case.x_shape, kernels, case.y_shape)]


def named_kernels(text):
    """Names of the kernels called, a name for each call."""
    calls = [line for line in text.splitlines() if "custom_call @mosaic_gpu" in line]
    names = ("carafe_forward", "carafe_input_gradient", "carafe_weight_gradient")
    return [name for line in calls for name in names if name in line]


REAL = [
    (Case(5, up=2, size=(200, 336), batch=8, group_channels=256), "9.0", "float32"),
    (Case(5, up=2, size=(200, 336), batch=8, group_channels=256), "10.0", "bfloat16"),
    (Case(5, down=2, size=(200, 336), batch=8, group_channels=2048), "9.0", "bfloat16"),
    (Case(5, down=2, size=(200, 336), batch=8, group_channels=2048), "10.0", "float32"),
]


@pytest.mark.parametrize(("case", "capability", "dtype"), REAL, ids=str)
def test_real_sizes_lower_to_each_kernel_once_and_to_no_patches(case, capability, dtype):
    run = carafe_and_gradients(case, "softmax", "mosaic_gpu")
    text = lowered(run, *shapes(case, dtype), capability=capability)
    assert sorted(named_kernels(text)) == [
        "carafe_forward",
        "carafe_input_gradient",
        "carafe_weight_gradient",
    ]
    largest = max(math.prod(shape) for shape in (case.x_shape, case.y_shape))
    assert max(tensor_sizes(text)) == largest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("geometry", "dtype"),
    [
        (Geometry(3, up=2, groups=2), "float32"),
        (Geometry(5, up=2), "float16"),
        (Geometry(7, up=2), "bfloat16"),
        (Geometry(5, up=3), "float32"),
        (Geometry(3, up=4), "bfloat16"),
        (Geometry(3, down=2), "float32"),
        (Geometry(5, down=2, groups=2), "bfloat16"),
        (Geometry(7, down=2), "float32"),
        (Geometry(5, down=3), "bfloat16"),
    ],
    ids=str,
)
def test_geometries_lower_with_logits(geometry, dtype):
    case = Case(**dataclasses.asdict(geometry), size=(25, 42), group_channels=100)
    run = carafe_and_gradients(case, "sigmoid", "mosaic_gpu")
    assert len(named_kernels(lowered(run, *shapes(case, dtype)))) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "geometry",
    [Geometry(5, up=2), Geometry(3, up=3, groups=2), Geometry(5, up=4), Geometry(7, down=3)],
    ids=str,
)
def test_geometries_lower_with_weights(geometry):
    case = Case(**dataclasses.asdict(geometry), size=(25, 42), group_channels=64)
    operator = functools.partial(carafe_jax.reassemble, implementation="mosaic_gpu", **case.options)

    def run(x, weights, dy):
        y, vjp = jax.vjp(operator, x, weights)
        return y, *vjp(dy)

    assert len(named_kernels(lowered(run, *shapes(case, "float32", of_weights=True)))) == 3


def test_exports_for_cuda_without_one():
    case = Case(5, up=2, group_channels=64)
    operator = functools.partial(carafe_jax.carafe, implementation="mosaic_gpu", **case.options)
    exported = jax.export.export(jax.jit(operator), platforms=["cuda"])(
        *shapes(case, "float32")[:2]
    )
    restored = jax.export.deserialize(exported.serialize())
    assert restored.platforms == ("cuda",)
    assert restored.out_avals[0].shape == case.y_shape
    assert "mosaic_gpu" in restored.mlir_module()


@pytest.mark.parametrize("transform", ["pmap", "shard_map"])
def test_each_device_runs_the_kernel_on_its_part(transform):
    devices = jax.local_device_count()
    case = Case(5, up=2, batch=devices, group_channels=64)
    operator = functools.partial(carafe_jax.carafe, implementation="mosaic_gpu", **case.options)
    operands = shapes(case, "float32")[:2]
    if transform == "pmap":
        split = [jax.ShapeDtypeStruct((devices, 1, *s.shape[1:]), s.dtype) for s in operands]
        traced = jax.jit(jax.pmap(operator)).trace(*split)
    else:
        mesh = jax.make_mesh((devices,), ("data",))
        spec = jax.sharding.PartitionSpec("data")
        mapped = jax.shard_map(operator, mesh=mesh, in_specs=spec, out_specs=spec)
        sharding = jax.sharding.NamedSharding(mesh, spec)
        split = [jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding) for s in operands]
        traced = jax.jit(mapped).trace(*split)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    (call,) = [line for line in text.splitlines() if "custom_call @mosaic_gpu" in line]
    assert "tensor<1x6x1x7x64xf32>" in call


@each_axis_type
def test_kernels_follow_a_sharded_batch(axis_type):
    """Automatic shardings are cut after lowering: see `test_batching.py` for what then happens."""
    devices = jax.local_device_count()
    case = Case(5, up=2, batch=devices, group_channels=64)
    sharding = over_the_batch(axis_type)
    operands = [
        jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding) for s in shapes(case, "float32")
    ]
    run = jax.jit(carafe_and_gradients(case, "softmax", "mosaic_gpu"))
    text = run.trace(*operands).lower(lowering_platforms=("cuda",)).as_text()
    cut_later = text.count("@CustomSPMDPartitioning")
    calls = [line for line in text.splitlines() if "custom_call @mosaic_gpu" in line]
    if axis_type == AxisType.Auto:
        assert (len(calls), cut_later) == (0, 3)
    else:
        assert (len(calls), cut_later) == (3, 0)
        assert all("tensor<1x6x1x7x64xf32>" in call for call in calls)


# What is refused


def test_other_scales_kernels_dtypes_and_shapes_are_refused_with_a_reason():
    float32, float64 = np.dtype(np.float32), np.dtype(np.float64)
    supports = functools.partial(mosaic_gpu.supports, dtype=float32, shape=(2, 8, 8, 64))
    assert supports(Geometry(5, 2)) is None
    assert supports(Geometry(5, 4, 2)) is None
    assert supports(Geometry(5, 3, 2)) == "they rescale by up or by down, not by 3 / 2"
    assert supports(Geometry(9, 2)).startswith("they serve kernel_size in (1, 3, 5, 7)")
    assert supports(Geometry(5, 1, 4)).startswith("they serve kernel_size in (1, 3, 5, 7)")
    assert "not from float64" in supports(Geometry(5, 2), dtype=float64)
    assert "not from float64" in supports(Geometry(5, 2), weights_dtype=float64)
    assert "lowest terms" in supports(Geometry(5, 4, 2), normalizer="softmax")
    reason = supports(Geometry(7, 4, groups=32))
    assert reason == f"{Geometry(7, 4, groups=32)} needs more shared memory than a block has"
    (batch,) = jax.export.symbolic_shape("b")
    assert supports(Geometry(5, 2), shape=(batch, 8, 8, 64)).startswith("they need a static shape")


def test_sizes_past_32_bit_indices_are_refused():
    supports = functools.partial(mosaic_gpu.supports, dtype=jnp.dtype(jnp.bfloat16))
    assert math.prod(LARGE) == 2**31
    assert supports(Geometry(5, 1, 2), shape=LARGE) == (
        "x has 2,147,483,648 elements, and their indices end at 2,147,483,647"
    )
    quarter = (1, 2**15, 2**12, 4)
    assert supports(Geometry(3, 2), shape=quarter).startswith("y has 2,147,483,648 elements")
    thin = (1, 2**14, 2**13, 1)
    assert supports(Geometry(3, 2), shape=thin).startswith("weights has 4,831,838,208 elements")


def test_vmap_past_32_bit_indices_is_refused():
    x = jax.ShapeDtypeStruct((2**9, 1, 2**10, 2**6, 2**6), jnp.bfloat16)
    logits = jax.ShapeDtypeStruct((2**9, 1, 2**9, 2**5, 9), jnp.bfloat16)
    operator = functools.partial(
        carafe_jax.carafe, kernel_size=3, down=2, implementation="mosaic_gpu"
    )
    assert math.prod(x.shape) == 2**31
    with pytest.raises(NotImplementedError, match="x has 2,147,483,648 elements"):
        jax.eval_shape(jax.vmap(operator), x, logits)


def test_a_named_implementation_says_what_it_cannot_serve():
    x, weights = jnp.ones((1, 4, 4, 2)), jnp.ones((1, 6, 6, 9))
    message = "'mosaic_gpu' cannot serve this call: they rescale by up or by down, not by 3 / 2"
    with pytest.raises(NotImplementedError, match=message):
        carafe_jax.reassemble(x, weights, kernel_size=3, up=3, down=2, implementation="mosaic_gpu")


@pytest.mark.parametrize("scale", [{"up": 2}, {"down": 2}])
def test_an_empty_batch_gives_an_empty_result(scale):
    case = Case(3, **scale, batch=0)
    operands = random_map_logits_and_cotangent(case, "float32")
    with mosaic_gpu.interpreted():
        outputs = carafe_and_gradients(case, "softmax", "mosaic_gpu")(*operands)
    assert [out.shape for out in outputs] == [case.y_shape, case.x_shape, case.logits_shape]


# Normalisers over separate taps


@pytest.mark.parametrize("normalizer", sorted(NORMALIZERS))
def test_normalisers_of_taps_equal_those_along_an_axis(normalizer):
    rng = np.random.default_rng(0)
    logits = jnp.float32(rng.standard_normal((7, 9)) * np.geomspace(1e-3, 1e3, 7)[:, None])
    cotangents = jnp.float32(rng.standard_normal(logits.shape))
    desired, vjp = jax.vjp(NORMALIZERS[normalizer], logits)
    weights = np.stack(tap_weights(list(logits.T), normalizer), -1)
    np.testing.assert_allclose(weights, desired, rtol=1e-5, atol=1e-7)
    gradients = tap_logit_gradients(list(logits.T), list(cotangents.T), normalizer)
    np.testing.assert_allclose(np.stack(gradients, -1), vjp(cotangents)[0], rtol=1e-4, atol=1e-6)


# Where blocks stand


@pytest.mark.parametrize(("batch", "rows", "columns"), [(1, 1, 1), (3, 9, 5), (2, 16, 8)])
def test_blocks_cover_every_cell_once(batch, rows, columns):
    grid = blocks.Grid(batch, rows, columns, tile_rows=4, tile_columns=3)
    covered = np.zeros((batch, -(-rows // 4) * 4, -(-columns // 3) * 3), int)
    for block in range(*grid.shape):
        b, row, column = map(int, grid.position(jnp.int32(block)))
        covered[b, row : row + 4, column : column + 3] += 1
    assert (covered == 1).all()


problems = st.builds(
    Problem,
    geometry=st.one_of(
        st.builds(
            Geometry,
            kernel_size=st.sampled_from(mosaic_gpu.KERNEL_SIZES),
            up=st.sampled_from(mosaic_gpu.UPS),
            groups=st.integers(1, 3),
        ),
        st.builds(
            Geometry,
            kernel_size=st.sampled_from(mosaic_gpu.KERNEL_SIZES),
            down=st.sampled_from(mosaic_gpu.DOWNS),
            groups=st.integers(1, 3),
        ),
    ),
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.integers(1, 300).map(lambda n: 6 * n),
    dtype=st.sampled_from([np.dtype(np.float32), jnp.dtype(jnp.bfloat16)]),
    cells_dtype=st.sampled_from([np.dtype(np.float32), jnp.dtype(jnp.bfloat16)]),
    normalizer=st.sampled_from([None, "softmax"]),
)


def narrow(width, channels):
    """One place of these, as wide as the channels of a tile, is one piece of a row."""
    bfloat16 = jnp.dtype(jnp.bfloat16)
    return Problem(Geometry(5, 2), 2, (40, width), channels, bfloat16, np.dtype(np.float32))


# Each buffer fills whole kilobytes.
ROUNDED = Problem(Geometry(7, 1, 3, 6), 2, (40, 40), 24, *[jnp.dtype(jnp.bfloat16)] * 2, "softmax")


@settings(max_examples=500)
@given(problems)
@example(narrow(2, 8))
@example(narrow(4, 4))
@example(ROUNDED)
def test_tiles_are_what_copies_can_move(problem):
    """Whole multiples of 128 bytes in, and out nothing that runs on into the next map."""
    geometry, itemsize = problem.geometry, problem.dtype.itemsize
    (_, width), (rows, columns), halo = problem.size, problem.cells, sum(geometry.halo)
    for choose, read, written, out_width in (
        (forward_tile, geometry.down, geometry.up, problem.output_size[1]),
        (input_gradient_tile, geometry.up, geometry.down, width),
    ):
        try:
            tile = choose(problem)
        except TooLargeError:
            continue
        assert tile.nbytes <= SHARED_MEMORY
        assert tile.rows * tile.channels == THREADS * tile.vector
        assert tile.group_channels % tile.channels == 0 or geometry.groups == 1
        assert tile.map_shape[1] >= tile.rows + halo
        assert tile.map_shape[2:] == (
            read // tile.passes,
            (tile.columns + halo) * read,
            tile.channels,
        )
        assert math.prod(tile.map_shape[1:]) * itemsize % 128 == 0
        assert tile.cells.padded_rows * tile.cells.box * tile.cells.dtype.itemsize % 128 == 0
        box = (tile.rows, written, tile.columns * written, tile.channels)
        assert tile.out_shape == box
        assert math.prod(box) * itemsize % 128 == 0
        array = (rows, written, out_width, geometry.groups * tile.group_channels)
        assert not is_one_piece(box, array)
    try:
        tile = weight_gradient_tile(problem)
    except TooLargeError:
        return
    assert tile.nbytes <= SHARED_MEMORY
    assert tile.rows * tile.columns == THREADS
    place = tile.pitch(problem.dtype) * 4
    assert place // 16 % 2 == 1
    source = tile.source_rows(geometry, problem.dtype) * geometry.down * (tile.columns + halo)
    assert source * place % 128 == 0
    box = (tile.rows, tile.columns, tile.cells.box)
    parts = geometry.up**2 // (tile.row_phases * tile.column_phases)
    entries = parts * tile.cells.boxes * tile.cells.box
    assert parts * tile.cells.entries == geometry.logit_channels
    assert not is_one_piece(box, (rows, columns, entries))
