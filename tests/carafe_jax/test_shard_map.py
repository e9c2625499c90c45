"""Lowers for GPUs in `shard_map`, `pmap` and `vmap`.

In `shard_map` the pass `vjp` is lowered for every combination of implementation, form and axis
type. For other passes and for `vmap`, each pair of values occurs in some combination.
"""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import carafe_jax
from tests.kernels.cases import Case
from tests.kernels.gpus import H100, case_of, have_devices, have_proven
from tests.slow import slow

CASE = Case(1, up=2, size=(4, 4), batch=8, group_channels=32)
PASSES = {"forward": ["y"], "vjp": ["y", "x", "weights"], "grad": ["y", "x", "weights"]}
KERNELS = {"y": "carafe_forward", "x": "carafe_input_gradient", "weights": "carafe_weight_gradient"}

FORMS = ("carafe", "reassemble")
BY_KERNELS = ("mosaic_gpu", None)
IMPLEMENTATIONS = (*BY_KERNELS, "xla")
by_kernels = pytest.mark.parametrize("implementation", BY_KERNELS)
each_form = pytest.mark.parametrize("form", FORMS)
AXIS_TYPES = (AxisType.Auto, AxisType.Explicit)


def every_pair(*values):
    """Half of all combinations of the values and a form, in which each pair of values occurs."""
    indices = itertools.product(*(range(len(each)) for each in values))
    return [
        (*(each[i] for each, i in zip(values, chosen, strict=True)), FORMS[sum(chosen) % 2])
        for chosen in indices
    ]


def run(form, implementation, of_pass):
    """`(x, weights, dy) -> ...` for one pass."""
    operator = functools.partial(
        getattr(carafe_jax, form), implementation=implementation, **CASE.options
    )

    def forward(x, weights, dy):
        del dy
        return operator(x, weights)

    def vjp(x, weights, dy):
        y, pullback = jax.vjp(operator, x, weights)
        return y, *pullback(dy)

    def grad(x, weights, dy):
        def loss(x, weights):
            return jnp.sum(dy * jnp.sin(operator(x, weights)))

        return jax.grad(loss, argnums=(0, 1))(x, weights)

    return {"forward": forward, "vjp": vjp, "grad": grad}[of_pass]


def shapes(form):
    second = CASE.logits_shape if form == "carafe" else CASE.weights_shape
    return [jax.ShapeDtypeStruct(s, jnp.float32) for s in (CASE.x_shape, second, CASE.y_shape)]


def assert_kernels_run_on_parts(traced, implementation, of_pass):
    text = traced.lower(lowering_platforms=("cuda",)).as_text(debug_info=True)
    calls = [line for line in text.splitlines() if "custom_call @mosaic_gpu" in line]
    slots = [] if implementation == "xla" else PASSES[of_pass]
    for slot in slots:
        assert sum(KERNELS[slot] in call for call in calls) == 1
    assert len(calls) == len(slots)
    part = CASE.batch // jax.local_device_count()
    for call in calls:
        batches = {int(batch) for batch in re.findall(r"tensor<(\d+)x\d+x[\dx]+xf32>", call)}
        assert batches == {part}


@pytest.fixture(autouse=True)
def on_an_h100(monkeypatch):
    have_devices(monkeypatch, H100)
    have_proven(monkeypatch, *(case_of(CASE.options, form) for form in ("carafe", "reassemble")))


def in_shard_map(form, implementation, of_pass, axis_type, **options):
    mesh = jax.make_mesh((jax.local_device_count(),), ("data",), axis_types=(axis_type,))
    spec = P("data")
    placed = [
        jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=NamedSharding(mesh, spec))
        for s in shapes(form)
    ]
    with jax.sharding.set_mesh(mesh):
        mapped = jax.shard_map(
            run(form, implementation, of_pass),
            mesh=mesh,
            in_specs=spec,
            out_specs=spec,
            **options,
        )
        return jax.jit(mapped).trace(*placed)


@pytest.mark.parametrize(
    ("implementation", "of_pass", "axis_type", "form"),
    [
        *itertools.product(IMPLEMENTATIONS, ["vjp"], AXIS_TYPES, FORMS),
        *itertools.starmap(slow, every_pair(IMPLEMENTATIONS, ["forward", "grad"], AXIS_TYPES)),
    ],
)
def test_shard_map(implementation, form, axis_type, of_pass):
    traced = in_shard_map(form, implementation, of_pass, axis_type)
    assert_kernels_run_on_parts(traced, implementation, of_pass)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of_pass", "implementation", "axis_type", "form"),
    every_pair(["vjp", "grad"], BY_KERNELS, AXIS_TYPES),
)
def test_shard_map_that_does_not_check_what_varies(of_pass, implementation, form, axis_type):
    traced = in_shard_map(form, implementation, of_pass, axis_type, check_vma=False)
    assert_kernels_run_on_parts(traced, implementation, of_pass)


@pytest.mark.slow
@each_form
@by_kernels
def test_pmap(implementation, form):
    devices = jax.local_device_count()
    split = [
        jax.ShapeDtypeStruct((devices, s.shape[0] // devices, *s.shape[1:]), s.dtype)
        for s in shapes(form)
    ]
    traced = jax.jit(jax.pmap(run(form, implementation, "vjp"))).trace(*split)
    assert_kernels_run_on_parts(traced, implementation, "vjp")


def in_vmap(form, implementation, of_pass, split, spec):
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Explicit,) * 2)
    placed = [
        jax.ShapeDtypeStruct((*split, *s.shape[1:]), s.dtype, sharding=NamedSharding(mesh, spec))
        for s in shapes(form)
    ]
    with jax.sharding.set_mesh(mesh):
        return jax.jit(jax.vmap(run(form, implementation, of_pass))).trace(*placed)


SPLITS = [((4, 2), P("a", "b")), ((4, 2), P(("a", "b"))), ((2, 4), P(None, ("a", "b")))]


@pytest.mark.parametrize(("split", "spec"), SPLITS, ids=str)
def test_vmap_with_explicit_axes(split, spec):
    traced = in_vmap("carafe", "mosaic_gpu", "vjp", split, spec)
    assert_kernels_run_on_parts(traced, "mosaic_gpu", "vjp")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("placed", "implementation", "form"), every_pair(SPLITS, BY_KERNELS), ids=str
)
def test_every_vmap_with_explicit_axes(placed, implementation, form):
    split, spec = placed
    traced = in_vmap(form, implementation, "vjp", split, spec)
    assert_kernels_run_on_parts(traced, implementation, "vjp")
