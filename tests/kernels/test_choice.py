"""The choice of an implementation, with mock GPUs."""

import dataclasses
import functools
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from carafe_kernels import choice, mosaic_gpu
from carafe_kernels.geometry import Geometry
from carafe_kernels.implementation import ImplementationSpec
from carafe_kernels.mosaic_gpu import variants
from carafe_kernels.names import Implementation
from carafe_kernels.plan import Plan

import carafe_jax
from tests.kernels.cases import Case
from tests.kernels.errors import naming
from tests.kernels.gpus import (
    A100,
    B200,
    H100,
    MI300X,
    RTX_5090,
    case_of,
    gpu,
    have_devices,
    have_proven,
)

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}
FORMS = ["carafe", "reassemble"]
CASE = Case(3, up=2, size=(3, 4))
CPU = jax.devices("cpu")[0]


def operands(form, case=CASE, dtype=np.float32):
    second = case.logits_shape if form == "carafe" else case.weights_shape
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in (case.x_shape, second)]


def operator(form, implementation=None, case=CASE):
    return functools.partial(
        getattr(carafe_jax, form), implementation=implementation, **case.options
    )


def plan_of(form, case=CASE, dtype=np.float32, normalizer="softmax"):
    x, weights = operands(form, case, dtype)
    normalizer = normalizer if form == "carafe" else None
    return choice.choose(None, Geometry(**case.options), x, weights.dtype, normalizer)


def chosen(*arguments, **options):
    return plan_of(*arguments, **options).implementation


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


@pytest.fixture
def proven_form(monkeypatch, form):
    """A form for which `CASE` is proven on an H100."""
    have_proven(monkeypatch, case_of(CASE.options, form))
    return form


# Proven calls


def kinds(parameter):
    """A test id that is the same in every process; the `repr` of a mock has its address."""
    if isinstance(parameter, str):
        return parameter
    return " and ".join(device.device_kind for device in parameter)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("options", "channels"), [({"up": 2}, 256), ({"down": 2}, 64)], ids=["up", "down"]
)
def test_measured_calls_run_the_kernels_on_an_h100(monkeypatch, form, dtype, options, channels):
    def chosen_for(dtype=dtype, **changes):
        fields = {"kernel_size": 5, "group_channels": channels, **options, **changes}
        case = Case(size=(6, 6), **fields)
        x, second = operands(form, case)
        second = second if form == "reassemble" else second.astype(dtype)
        normalizer = None if form == "reassemble" else "softmax"
        geometry = Geometry(**case.options)
        return choice.choose(
            None, geometry, x.astype(dtype), second.dtype, normalizer
        ).implementation

    have_devices(monkeypatch, H100)
    assert chosen_for() == "mosaic_gpu"
    for change in ({"kernel_size": 3}, {"groups": 2}, {"group_channels": channels + 8}):
        assert chosen_for(**change) == "xla"
    assert chosen_for("float16") == "xla"
    have_devices(monkeypatch, B200)
    assert chosen_for() == "xla"


@pytest.mark.parametrize(
    ("geometry", "dtype", "expected"),
    [
        (Geometry(5, up=2), "float32", True),
        (Geometry(5, up=2), "bfloat16", False),
        (Geometry(5, down=2), "bfloat16", True),
        (Geometry(5, up=2, down=4), "bfloat16", True),
        (Geometry(3, up=2), "float32", False),
    ],
    ids=str,
)
def test_the_table_chooses_whether_one_launch_computes_both_gradients(geometry, dtype, expected):
    plan = Plan(geometry, (8, 8), jnp.dtype(dtype), jnp.dtype(dtype), None, "mosaic_gpu")
    plan = dataclasses.replace(plan, settings=mosaic_gpu.current_settings())
    assert variants.gradients_together(plan) == expected


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ([H100], "mosaic_gpu"),
        ([H100, gpu("NVIDIA H200", "9.0")], "mosaic_gpu"),
        ([H100, A100], "xla"),
        ([A100, H100], "xla"),
        ([B200], "xla"),
        ([A100], "xla"),
        ([RTX_5090], "xla"),
        ([MI300X], "xla"),
        ([CPU], "xla"),
    ],
    ids=kinds,
)
def test_calls_must_be_proven_on_all_devices_of_the_process(
    monkeypatch, proven_form, devices, expected
):
    have_devices(monkeypatch, *devices)
    assert chosen(proven_form) == expected


def test_an_entry_of_the_table_proves_no_other_call(monkeypatch, form):
    have_devices(monkeypatch, H100)
    have_proven(monkeypatch, case_of(CASE.options, form, channels=(2, 4)))
    assert chosen(form) == "mosaic_gpu"
    assert chosen(form, dtype=jnp.bfloat16) == "xla"
    for change in ({"kernel_size": 5}, {"up": 3}, {"up": 1, "down": 2}, {"groups": 2}):
        assert chosen(form, dataclasses.replace(CASE, **change)) == "xla"
    for channels, expected in [(1, "xla"), (2, "mosaic_gpu"), (4, "mosaic_gpu"), (5, "xla")]:
        assert chosen(form, dataclasses.replace(CASE, group_channels=channels)) == expected
    if form == "carafe":
        assert chosen(form, normalizer="sigmoid") == "xla"
        assert chosen("reassemble") == "xla"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_become_weights_if_only_kernels_for_weights_are_proven(monkeypatch, dtype):
    """The weights are in float32 for every dtype of the logits."""
    have_devices(monkeypatch, H100)
    have_proven(monkeypatch, case_of(CASE.options, "reassemble", dtypes=(dtype, "float32")))
    plan = plan_of("carafe", dtype=dtype)
    assert (plan.implementation, plan.normalizer) == ("mosaic_gpu", None)
    assert plan.weights_dtype == "float32"


def test_an_entry_of_the_table_distinguishes_the_dtypes_of_map_and_weights(monkeypatch):
    have_devices(monkeypatch, H100)
    dtypes = ("bfloat16", "float32")
    have_proven(monkeypatch, case_of(CASE.options, "reassemble", dtypes=dtypes))
    x, weights = operands("reassemble")
    geometry = Geometry(**CASE.options)
    proven_plan = choice.choose(None, geometry, x.astype("bfloat16"), weights.dtype)
    other_plan = choice.choose(None, geometry, x, weights.astype("bfloat16").dtype)
    assert (proven_plan.implementation, other_plan.implementation) == ("mosaic_gpu", "xla")


def test_calls_that_are_proven_on_both_of_two_gpus(monkeypatch, form):
    have_devices(monkeypatch, H100, B200)
    on_both = [case_of(CASE.options, form, capability=c) for c in ("9.0", "10.0")]
    have_proven(monkeypatch, *on_both)
    assert chosen(form) == "mosaic_gpu"


def test_a_proven_call_that_the_kernels_refuse_is_logged_once(monkeypatch, caplog):
    have_devices(monkeypatch, H100)
    case = Case(3, up=3, down=2, size=(5, 3))
    have_proven(monkeypatch, case_of(case.options, "reassemble"))
    choice.log_once.cache_clear()
    with caplog.at_level(logging.DEBUG, logger="carafe_jax"):
        for _ in range(2):
            assert chosen("reassemble", case) == "xla"
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("carafe_jax", logging.DEBUG)
    assert re.search("'mosaic_gpu'.* not by 3 / 2", record.getMessage())


# The platform of a program


def kernels_in(text):
    return text.count("mosaic_gpu")


def test_a_program_for_the_cpu_runs_xla_on_a_host_with_gpus(monkeypatch, proven_form):
    arrays = operands(proven_form)
    expected = operator(proven_form, "xla")(*arrays)
    have_devices(monkeypatch, H100)
    assert chosen(proven_form) == "mosaic_gpu"
    np.testing.assert_array_equal(operator(proven_form)(*arrays), expected)
    np.testing.assert_array_equal(jax.jit(operator(proven_form))(*arrays), expected)


def test_gradients_of_a_program_for_the_cpu_run_xla(monkeypatch, proven_form):
    def loss(implementation):
        run = operator(proven_form, implementation)
        return jax.grad(lambda *arrays: jnp.sum(run(*arrays) ** 2), argnums=(0, 1))

    arrays = operands(proven_form)
    expected = loss("xla")(*arrays)
    have_devices(monkeypatch, H100)
    for actual, desired in zip(loss(None)(*arrays), expected, strict=True):
        np.testing.assert_allclose(actual, desired, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("platforms", "kernels"), [(["cuda"], True), (["cpu"], False), (["rocm"], False)], ids=str
)
def test_exports_from_a_host_with_gpus(monkeypatch, proven_form, platforms, kernels):
    have_devices(monkeypatch, H100)
    exported = jax.export.export(jax.jit(operator(proven_form)), platforms=platforms)
    assert bool(kernels_in(exported(*operands(proven_form)).mlir_module())) == kernels


def test_exports_for_cuda_from_a_host_without_gpus_run_xla(proven_form):
    exported = jax.export.export(jax.jit(operator(proven_form)), platforms=["cuda"])
    assert not kernels_in(exported(*operands(proven_form)).mlir_module())


@pytest.mark.parametrize("implementation", [None, "mosaic_gpu"])
def test_an_export_with_kernels_for_two_platforms_names_an_alternative(
    monkeypatch, proven_form, implementation
):
    have_devices(monkeypatch, H100)
    run = jax.jit(operator(proven_form, implementation))
    message = "cannot run on cpu or cuda: .*; export for one platform at a time"
    with pytest.raises(NotImplementedError, match=message):
        jax.export.export(run, platforms=["cpu", "cuda"])(*operands(proven_form))


def test_a_symbolic_batch_runs_xla(monkeypatch, proven_form):
    have_devices(monkeypatch, H100)
    exported = jax.export.export(jax.jit(operator(proven_form)), platforms=["cuda"])
    (batch,) = jax.export.symbolic_shape("batch")
    symbolic = [
        jax.ShapeDtypeStruct((batch, *array.shape[1:]), array.dtype)
        for array in operands(proven_form)
    ]
    assert not kernels_in(exported(*symbolic).mlir_module())


def test_the_devices_of_the_process_follow_the_default_device(monkeypatch):
    asked = []
    monkeypatch.setattr(jax, "local_devices", lambda *, backend: asked.append(backend) or [H100])
    choice.devices_of_process()
    for default in (CPU, "cpu"):
        with jax.default_device(default):
            choice.devices_of_process()
    assert asked == [None, "cpu", "cpu"]


# Named implementations


@pytest.mark.parametrize("device", [A100, MI300X, RTX_5090], ids=lambda device: device.device_kind)
def test_the_error_names_an_unsupported_gpu(monkeypatch, device):
    have_devices(monkeypatch, device)
    expected = "mosaic_gpu", device.device_kind, device.compute_capability, "9.0", "'xla'"
    with pytest.raises(NotImplementedError, match=naming(*expected)):
        operator("reassemble", "mosaic_gpu")(*operands("reassemble"))


def test_one_supported_gpu_is_enough_for_a_named_implementation(monkeypatch, form):
    have_devices(monkeypatch, A100, H100)
    exported = jax.export.export(jax.jit(operator(form, "mosaic_gpu")), platforms=["cuda"])
    assert kernels_in(exported(*operands(form)).mlir_module())


def test_xla_normalises_logits_that_the_kernels_cannot(monkeypatch, caplog):
    have_devices(monkeypatch, H100)
    case = Case(3, up=4, down=2, size=(4, 4))
    choice.log_once.cache_clear()
    with caplog.at_level(logging.DEBUG, logger="carafe_jax"):
        jax.eval_shape(operator("carafe", "mosaic_gpu", case), *operands("carafe", case))
    (record,) = caplog.records
    assert re.search("logits .*XLA.*'mosaic_gpu'.*lowest terms", record.getMessage())


def test_nothing_is_logged_when_xla_is_named(caplog):
    choice.log_once.cache_clear()
    with caplog.at_level(logging.DEBUG, logger="carafe_jax"):
        jax.eval_shape(operator("carafe", "xla"), *operands("carafe"))
    assert not caplog.records


def test_a_refused_call_logs_nothing(caplog):
    choice.log_once.cache_clear()
    case = Case(3, up=3, down=2, size=(4, 4))
    with (
        caplog.at_level(logging.DEBUG, logger="carafe_jax"),
        pytest.raises(NotImplementedError, match="not by 3 / 2"),
    ):
        jax.eval_shape(operator("carafe", "mosaic_gpu", case), *operands("carafe", case))
    assert not caplog.records


def test_the_log_has_the_reason_of_the_gpu_that_supports_the_weights(monkeypatch, caplog):
    have_devices(monkeypatch, A100, H100)
    case = Case(3, up=4, down=2, size=(4, 4))
    choice.log_once.cache_clear()
    with caplog.at_level(logging.DEBUG, logger="carafe_jax"):
        jax.eval_shape(operator("carafe", "mosaic_gpu", case), *operands("carafe", case))
    (record,) = caplog.records
    assert "lowest terms" in record.getMessage()


def test_an_interpreted_kernel_is_not_chosen_automatically(proven_form):
    with mosaic_gpu.interpreted():
        assert chosen(proven_form) == "xla"


def test_the_gpu_kernels_are_imported_only_when_they_are_named():
    program = """
import sys
import carafe_jax, jax.numpy as jnp
carafe_jax.carafe(jnp.ones((1, 2, 2, 1)), jnp.ones((1, 2, 2, 1)), kernel_size=1)
print({"jax.experimental.pallas", "carafe_kernels.mosaic_gpu"} & set(sys.modules))
"""
    completed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=ENVIRONMENT, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert completed.stdout == "set()\n"


# A third implementation


def test_an_entry_in_the_table_makes_a_module_an_implementation(monkeypatch, form):
    monkeypatch.setitem(choice.IMPLEMENTATIONS, "toy", "tests.kernels.toy")
    case = Case(3, up=3, down=2, groups=2, size=(3, 2), batch=1)
    arrays = operands(form, case)

    def gradients(implementation):
        run = operator(form, implementation, case)
        loss = jax.grad(lambda *a: jnp.sum(jnp.sin(run(*a))), argnums=(0, 1))
        # The gradient of a gradient has second derivatives of the operator.
        penalty = jax.grad(lambda x: jnp.sum(loss(x, arrays[1])[1] ** 2))
        return jax.jit(lambda *a: (run(*a), loss(*a), penalty(a[0])))

    by_toy, by_xla = gradients("toy"), gradients("xla")
    multiplies = ["dot_general" in str(run.trace(*arrays).jaxpr) for run in (by_toy, by_xla)]
    assert multiplies == [True, False]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(close, by_toy(*arrays), by_xla(*arrays))


def test_the_type_lists_all_implementations():
    assert set(get_args(Implementation)) == set(choice.IMPLEMENTATIONS)


def test_an_implementation_of_logits_must_support_their_weights(monkeypatch):
    """Second derivatives contract weights."""
    fusing = ImplementationSpec(
        contract=mock.Mock(),
        supports=lambda plan, shape, device: None if plan.normalizer else "it takes no weights",
    )
    monkeypatch.setitem(sys.modules, "fusing", mock.Mock(IMPLEMENTATION=fusing))
    monkeypatch.setitem(choice.IMPLEMENTATIONS, "fusing", "fusing")
    with pytest.raises(NotImplementedError, match=r"'fusing'.* it takes no weights"):
        operator("carafe", "fusing")(*operands("carafe"))


def test_an_implementation_refuses_unsupported_calls(monkeypatch, form):
    monkeypatch.setitem(choice.IMPLEMENTATIONS, "toy", "tests.kernels.toy")
    with pytest.raises(NotImplementedError, match=r"'toy'.*not bfloat16"):
        operator(form, "toy")(*operands(form, dtype=jnp.bfloat16))
