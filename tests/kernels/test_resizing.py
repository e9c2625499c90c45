"""The contractions of the portable implementation at any scale."""

import functools
import itertools
import math
from fractions import Fraction

import jax
import numpy as np
import pytest
from carafe_kernels import xla
from carafe_kernels.geometry import Axis, Geometry, Resize
from carafe_kernels.xla.resizing import (
    resized_forward,
    resized_input_gradient,
    resized_input_gradient_in_blocks,
    resized_weight_gradient,
    resized_weight_gradient_in_blocks,
)

import carafe_jax
from tests.kernels import oracle
from tests.kernels.cases import Case
from tests.slow import slow

GEOMETRIES = [Geometry(3, groups=2), slow(Geometry(5)), slow(Geometry(7)), slow(Geometry(1))]
# Sizes of a map and of the output. Rows and columns have different scales.
SIZES = [
    ((4, 7), (7, 5)),
    ((7, 3), (3, 17)),
    slow((1, 6), (5, 6)),
    slow((5, 5), (1, 1)),
    ((2, 1), (9, 13)),  # sources with 65 outputs
]
FLOAT32 = np.dtype("float32")

each_geometry = pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
each_size = pytest.mark.parametrize(("size", "out_size"), SIZES)


def resize_of(size, out_size):
    scales = (Fraction(outputs, n) for outputs, n in zip(out_size, size, strict=True))
    return Resize(*map(Axis, size, scales))


def options(geometry, resize):
    """Arguments of the oracle."""
    return {
        "kernel_size": geometry.kernel_size,
        "groups": geometry.groups,
        "scales": (resize.rows.scale, resize.columns.scale),
    }


def operands(geometry, resize, seed=0):
    rng = np.random.default_rng(seed)
    size, channels = (resize.rows.sources, resize.columns.sources), 2 * geometry.groups
    shapes = (
        (2, *size, channels),
        (2, *resize.size, geometry.weight_channels),
        (2, *resize.size, channels),
    )
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def assert_all_close(geometry, resize, run):
    """Compares the three contractions with slow loops in float64."""
    x, w, dy = operands(geometry, resize)
    arguments = options(geometry, resize)
    expected = (
        oracle.reassemble(x, w, **arguments),
        oracle.input_gradient(w, dy, x.shape[1:3], **arguments),
        oracle.weight_gradient(x, dy, **arguments),
    )
    for found, wanted in zip(jax.jit(run)(x, w, dy), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def whole(geometry, resize):
    def run(x, w, dy):
        static = (geometry, resize, FLOAT32)
        return (
            resized_forward(x, w, *static),
            resized_input_gradient(w, dy, *static),
            resized_weight_gradient(x, dy, *static),
        )

    return run


def in_blocks(geometry, resize, block_bytes=1):
    def run(x, w, dy):
        static = (geometry, resize, FLOAT32, FLOAT32, block_bytes)
        return (
            resized_forward(x, w, *static[:3]),
            resized_input_gradient_in_blocks(w, dy, *static),
            resized_weight_gradient_in_blocks(x, dy, *static),
        )

    return run


@each_geometry
@each_size
def test_contractions_are_those_of_the_definition(geometry, size, out_size):
    resize = resize_of(size, out_size)
    assert_all_close(geometry, resize, whole(geometry, resize))


@each_geometry
@pytest.mark.parametrize(
    ("size", "out_size"),
    [((13, 3), (17, 4)), slow((17, 4), (13, 3)), ((7, 1), (32, 5)), slow((3, 2), (16, 9))],
)
def test_gradients_in_blocks_are_those_of_the_definition(geometry, size, out_size):
    resize = resize_of(size, out_size)
    assert_all_close(geometry, resize, in_blocks(geometry, resize))


@pytest.mark.slow
def test_every_pair_of_small_sizes():
    geometry = Geometry(3)
    pairs = list(itertools.product(range(1, 9), repeat=2))
    columns = np.random.default_rng(0).permutation(pairs).tolist()
    for (height, out_height), (width, out_width) in zip(pairs, columns, strict=True):
        resize = resize_of((height, width), (out_height, out_width))
        assert_all_close(geometry, resize, whole(geometry, resize))


@pytest.mark.parametrize(
    "case",
    [
        Case(5, up=2, size=(7, 6)),
        Case(3, down=2, groups=2, size=(7, 6)),
        slow(Case(7, up=3, size=(4, 5))),
        slow(Case(3, up=3, down=2, size=(5, 6))),
    ],
    ids=str,
)
def test_sums_have_the_same_bits_as_those_in_cells(case):
    scale = Fraction(case.up, case.down)
    resize = Resize(Axis(case.size[0], scale), Axis(case.size[1], scale))
    in_cells = Geometry(**case.options)
    geometry = Geometry(case.kernel_size, groups=case.groups)
    x, w, dy = case.random_operands()

    def cells(x, w, dy):
        return (
            xla.forward(x, w, in_cells, FLOAT32),
            xla.input_gradient(w, dy, in_cells, case.size, FLOAT32),
            xla.weight_gradient(x, dy, in_cells, FLOAT32),
        )

    found, expected = jax.jit(whole(geometry, resize))(x, w, dy), jax.jit(cells)(x, w, dy)
    np.testing.assert_array_equal(found[0], expected[0])
    if case.up == 1 or case.down == 1:
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("run", [whole, in_blocks])
def test_values_that_no_tap_reads_do_not_spread(run):
    geometry, resize = Geometry(3), resize_of((12, 4), (5, 4))
    x, w, dy = operands(geometry, resize)
    unread = sorted(set(range(12)) - {c + n for c in resize.rows.centres() for n in (-1, 0, 1)})
    x[:, unread] = np.nan
    w[:, 0, :, :3] = np.nan  # taps above the map
    y, dx, dw = jax.jit(run(geometry, resize))(x, w, dy)
    assert np.isfinite(y[:, 1:]).all()
    assert np.isfinite(dx).all()
    assert np.isfinite(dw).all()


@pytest.mark.parametrize("loops", [False, True])
def test_a_program_with_gradients_stores_no_patches(monkeypatch, loops):
    monkeypatch.setattr(jax, "device_count", lambda platform: 1)
    size, scale = (20, 20), Fraction(17, 10)
    out_size = tuple(math.ceil(n * scale) for n in size)
    x = jax.ShapeDtypeStruct((1, *size, 128), np.float32)
    weights = jax.ShapeDtypeStruct((1, *out_size, 25), np.float32)
    dy = jax.ShapeDtypeStruct((1, *out_size, 128), np.float32)

    def run(x, weights, dy):
        y, pullback = jax.vjp(functools.partial(carafe_jax.reassemble, scale=scale), x, weights)
        return y, *pullback(dy)

    with xla.using(loops=loops):
        compiled = jax.jit(run).lower(x, weights, dy).compile()
    operands = sum(math.prod(each.shape) * 4 for each in (x, weights, dy))
    # The patches alone would take 25 times the output.
    most = 1.5 if loops else 3.5
    assert compiled.memory_analysis().temp_size_in_bytes < most * operands


@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("side", [1, 2])
def test_the_gradient_of_a_small_map_stores_no_margin_of_outputs(monkeypatch, loops, side):
    monkeypatch.setattr(jax, "device_count", lambda platform: 1)
    x = jax.ShapeDtypeStruct((1, side, side, 64), np.float32)
    weights = jax.ShapeDtypeStruct((1, 33, 33, 25), np.float32)

    def loss(x, weights):
        return carafe_jax.reassemble(x, weights, size=(33, 33)).sum()

    with xla.using(loops=loops):
        compiled = jax.jit(jax.grad(loss)).lower(x, weights).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 33 * 33 * 64 * 4
